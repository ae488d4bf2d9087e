"""`sensitivity`: measures the loss of cosine with only one matrix quantized, and chooses the matrices to exclude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.durable import new_file
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import comparable, encode_canary
from fletcher.runtime.commandline.report_files import to_json
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError, MissingPackageError
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.providers.mlas.graph import CpuGraph

from .calibration import calibrate, needs_calibration
from .graph.editor import GraphEditor
from .graph.matrices import find_matrices, float_variant
from .graph.products import ProductWriter
from .graph.schemes import assign_schemes
from .measure.metrics import cosines
from .measure.texts import built_in_texts
from .recipe import DEFAULT_RECIPE, Recipe, load_recipe

__all__ = ["Damage", "Sensitivity", "exclude_greedily", "plot_sensitivity", "sensitivity"]

#: Built-in texts that damage is measured on; all of `NUM_CALIBRATING` calibrate.
NUM_TEXTS, NUM_CALIBRATING = 48, 400

#: Texts per batch.
BATCH = 16


@dataclass(frozen=True, slots=True)
class Damage:
    """`Damage`: loss of accuracy with only one matrix quantized.

    Attributes:
        matrix: name of the matrix.
        scheme: scheme that it was quantized with.
        loss: 1 - mean cosine with float32.
        worst: 1 - smallest cosine with float32.
        work: share of the matrix in all products' multiplications, 0 to 1; 0 for a table.
    """

    matrix: str
    scheme: str
    loss: float
    worst: float
    work: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """`Sensitivity`: damage of every matrix that a recipe changes.

    Attributes:
        model: name of the model.
        recipe: name of the recipe.
        texts: number of texts that the damage was measured on.
        damages: damage of each matrix, largest loss first.
    """

    model: str
    recipe: str
    texts: int
    damages: tuple[Damage, ...]


def sensitivity(
    artifact: str | Path | Artifact,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    *,
    texts: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Sensitivity:
    """Measure each matrix that the recipe changes separately. Nothing is written.

    Args:
        artifact: an artifact with a float32 graph for processors, or its folder.
        recipe: a recipe, the name of a built-in one, or the path of a TOML file.
        texts: texts to measure on and to calibrate with. Default: built-in texts.
        progress: counts the measured matrices.

    Raises:
        InputError: the recipe does not exist, names a matrix that the model does not have or changes none; or the texts are
            too few.
        ArtifactError: the artifact has no float32 graph.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    parent = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    if recipe.target not in ("cpu", "openvino"):
        raise InputError(
            f"the recipe {recipe.name} is for {recipe.target}, which does not run here: use a recipe for cpu"
        )
    source = float_variant(parent)
    graph = GraphEditor(parent, source)
    places = find_matrices(graph)
    schemes = assign_schemes(recipe, places)
    calibrating = list(texts) if texts is not None else built_in_texts(NUM_CALIBRATING // 2)
    activations = (
        calibrate(parent, recipe, schemes, calibrating) if needs_calibration(recipe, schemes.values()) else None
    )
    measured_texts = calibrating if texts is not None else calibrating[:NUM_TEXTS]
    card = parent.manifest.card
    queries = (*measured_texts[1:], measured_texts[0]) if card.output == "scores" else ()
    encodings = encode_canary(open_tokenizer(parent), card, measured_texts, queries)
    names = [info.name for info in source.inputs]
    output = source.outputs[0].name
    reference = _run(CpuGraph(graph.inline(), parent.path), encodings, names, output)
    shapes = {place.matrix.name: place.matrix for place in places}
    total = sum(np.prod(matrix.shape) for matrix in shapes.values() if matrix.kind == "product")
    damages = []
    with progress.count("damage by matrix", total=len(schemes), units=("matrices",)) as counter:
        for name, scheme in schemes.items():
            edited = GraphEditor(parent, source)
            ProductWriter(edited, recipe, activations).rewrite(places, {name: scheme})
            vectors = _run(CpuGraph(edited.inline(), parent.path), encodings, names, output)
            ours, theirs = comparable(card.output, vectors, reference)
            losses = 1 - cosines(ours.astype(np.float64), theirs.astype(np.float64))
            work = float(np.prod(shapes[name].shape) / total) if shapes[name].kind == "product" else 0.0
            damages.append(Damage(name, scheme, float(losses.mean()), float(losses.max()), work))
            counter.advance(1)
    ordered = tuple(sorted(damages, key=lambda damage: -damage.loss))
    return Sensitivity(card.name, recipe.name, len(measured_texts), ordered)


def exclude_greedily(sensitivity: Sensitivity, max_loss: float) -> tuple[str, ...]:
    """Return the matrices to leave in float32, so that the losses of the others add up to at most `max_loss`.

    Matrices with the largest loss per saved multiplication are excluded first. The word table is excluded last: its
    quantization saves no multiplications, but half of a small model's file. The losses of single matrices add up to
    only roughly the loss of all together, so measure the result.

    Args:
        sensitivity: damage of each matrix.
        max_loss: largest allowed 1 - mean cosine.
    """
    rest = sum(max(damage.loss, 0) for damage in sensitivity.damages)
    excluded = []
    by_price = sorted(sensitivity.damages, key=lambda damage: -damage.loss / damage.work if damage.work else 0.0)
    for damage in by_price:
        if rest <= max_loss:
            break
        excluded.append(damage.matrix)
        rest -= max(damage.loss, 0)
    return tuple(excluded)


def plot_sensitivity(sensitivity: Sensitivity, file: Path) -> None:
    """Write the damage of each matrix as a bar chart (`.png`, `.svg`) or as figures (`.json`).

    Raises:
        InputError: the file has another suffix.
        MissingPackageError: matplotlib is not installed.
    """
    if file.suffix == ".json":
        with new_file(file) as stream:
            stream.write(to_json(sensitivity))
        return
    if file.suffix not in (".png", ".svg"):
        raise InputError(f"a report cannot be written as {file.name}: use the suffix .json, .png or .svg")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "verify", "plotting") from error
    figure = Figure(figsize=(7, 1 + 0.22 * len(sensitivity.damages)), layout="constrained")
    axes = figure.subplots()
    rows = sensitivity.damages[::-1]
    axes.barh([damage.matrix for damage in rows], [damage.loss for damage in rows], color="#2563a8")
    axes.set_xlabel(f"1 - mean cosine, only this matrix quantized ({sensitivity.recipe})")
    axes.set_title(sensitivity.model)
    figure.savefig(file)


def _run(graph: CpuGraph, encodings: Encodings, names: Sequence[str], output: str) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(encodings), BATCH):
        batch = encodings.select(np.arange(start, min(start + BATCH, len(encodings))))
        parts.append(graph.run(batch.tensors(names), [output])[0])
    return np.concatenate(parts)
