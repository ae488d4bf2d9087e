"""Which matrices suffer: the loss of cosine with only one of them quantized, and which ones to leave out for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.canary import comparable, encode_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError, MissingPackageError
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

from .calibration import calibrate, needs_calibration
from .graph.editor import GraphEditor
from .graph.matrices import find_matrices, float_variant
from .graph.products import ProductWriter
from .measure.metrics import cosines
from .quantized_artifact import builtin_texts, plan
from .recipe import Recipe

__all__ = ["Damage", "Sensitivity", "exclude_greedily", "plot_sensitivity", "sensitivity"]

#: Built-in texts that damage is measured on.
NUM_TEXTS = 48

#: Texts of a batch.
BATCH = 16


@dataclass(frozen=True, slots=True)
class Damage:
    """What quantizing one matrix alone does.

    Attributes:
        matrix: its name.
        scheme: how it was quantized.
        loss: 1 - mean cosine with float32.
        worst: 1 - smallest cosine.
        work: its share of all products' multiplications; 0 for a table.
    """

    matrix: str
    scheme: str
    loss: float
    worst: float
    work: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Damage by matrix.

    Attributes:
        model: the model's name.
        recipe: the recipe's.
        texts: how many it was measured on.
        damages: the matrices, worst first.
    """

    model: str
    recipe: str
    texts: int
    damages: tuple[Damage, ...]


def sensitivity(
    artifact: Path | Artifact,
    recipe: Recipe,
    *,
    texts: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Sensitivity:
    """Measures every matrix that the recipe changes, by itself. Nothing is written.

    Args:
        artifact: with a float32 graph for processors.
        recipe: how a matrix is quantized.
        texts: to measure on and to calibrate with; None takes built-in ones.
        progress: counts the measured matrices.

    Raises:
        InputError: the recipe names a matrix that is not there, changes none, or the texts cannot calibrate it.
        ArtifactError: there is no float32 graph.
    """
    parent = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    if recipe.target not in ("cpu", "openvino"):
        raise InputError(f"the recipe {recipe.name} is for {recipe.target}, which does not run here: take one for cpu")
    source = float_variant(parent)
    graph = GraphEditor(parent, source)
    places = find_matrices(graph)
    schemes = plan(recipe, places)
    used = list(texts) if texts is not None else builtin_texts()
    seen = calibrate(parent, recipe, schemes, used) if needs_calibration(recipe, schemes.values()) else None
    measured_on = used if texts is not None else used[:NUM_TEXTS]
    card = parent.manifest.card
    queries = (*measured_on[1:], measured_on[0]) if card.output == "scores" else ()
    encodings = encode_canary(Tokenizer(parent.tokenizer_file, card.max_tokens), card, measured_on, queries)
    names = [info.name for info in source.inputs]
    output = source.outputs[0].name
    reference = _run(CpuGraph(graph.inline(), parent.path), encodings, names, output)
    shapes = {place.matrix.name: place.matrix for place in places}
    total = sum(np.prod(matrix.shape) for matrix in shapes.values() if matrix.kind == "product")
    damages = []
    with progress.count("damage by matrix", total=len(schemes), units=("matrices",)) as counter:
        for name, scheme in schemes.items():
            edited = GraphEditor(parent, source)
            ProductWriter(edited, recipe, seen).rewrite(places, {name: scheme})
            vectors = _run(CpuGraph(edited.inline(), parent.path), encodings, names, output)
            ours, theirs = comparable(card.output, vectors, reference)
            losses = 1 - cosines(ours.astype(np.float64), theirs.astype(np.float64))
            work = float(np.prod(shapes[name].shape) / total) if shapes[name].kind == "product" else 0.0
            damages.append(Damage(name, scheme, float(losses.mean()), float(losses.max()), work))
            counter.advance(1)
    ordered = tuple(sorted(damages, key=lambda damage: -damage.loss))
    return Sensitivity(card.name, recipe.name, len(measured_on), ordered)


def exclude_greedily(found: Sensitivity, max_loss: float) -> tuple[str, ...]:
    """Which matrices to leave in float32, so that the losses of the others add up to at most `max_loss`.

    The next one is always the one that loses most for the work that its quantization saves. A table, whose quantization saves
    no work but half of the file of a small model, comes last. Losses of single matrices add up
    to a little more or less than that of all together, so whoever wants a bound kept measures the result.

    Args:
        found: damage by matrix.
        max_loss: 1 - mean cosine that is allowed.
    """
    rest = sum(max(damage.loss, 0) for damage in found.damages)
    excluded = []
    by_price = sorted(found.damages, key=lambda damage: -damage.loss / damage.work if damage.work else 0.0)
    for damage in by_price:
        if rest <= max_loss:
            break
        excluded.append(damage.matrix)
        rest -= max(damage.loss, 0)
    return tuple(excluded)


def plot_sensitivity(found: Sensitivity, file: Path) -> None:
    """Writes damage by matrix as bars, as PNG or SVG by the file's ending, or the figures where it is `.json`.

    Raises:
        InputError: another ending.
        MissingPackageError: matplotlib is not installed.
    """
    if file.suffix == ".json":
        file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
        return
    if file.suffix not in (".png", ".svg"):
        raise InputError(f"a report cannot be written as {file.name}: end it in .json, .png or .svg")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("matplotlib", "verify", "plotting") from error
    figure = Figure(figsize=(7, 1 + 0.22 * len(found.damages)), layout="constrained")
    axes = figure.subplots()
    rows = found.damages[::-1]
    axes.barh([damage.matrix for damage in rows], [damage.loss for damage in rows], color="#2563a8")
    axes.set_xlabel(f"1 - mean cosine, only this matrix quantized ({found.recipe})")
    axes.set_title(found.model)
    figure.savefig(file)


def _run(graph: CpuGraph, encodings: Encodings, names: Sequence[str], output: str) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(encodings), BATCH):
        batch = encodings.select(np.arange(start, min(start + BATCH, len(encodings))))
        parts.append(graph.run(batch.tensors(names), [output])[0])
    return np.concatenate(parts)
