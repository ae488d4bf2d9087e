"""An artifact in, a quantized artifact out: rewritten, measured against its parent, checked against its canary."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

import fletcher
from fletcher.model_zoo.card import Accuracy
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import CANARY, TOKENIZER, Artifact
from fletcher.runtime.artifact.manifest import Manifest, Variant
from fletcher.runtime.artifact.writing import describe_files, new_artifact, write_manifest
from fletcher.runtime.canary import comparable, encode_canary, read_canary
from fletcher.runtime.corpora import corpus
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, InputError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

from .calibration import calibrate, needs_calibration
from .cpu_stand_in import SHOWN_HERE, vectors_elsewhere
from .graph.editor import GraphEditor, write_graphs
from .graph.matrices import Place, check_patterns, find_matrices, float_variants
from .graph.products import ProductWriter
from .measure.metrics import compare, cosines
from .recipe import MatrixScheme, Recipe

__all__ = ["FLOORS", "INSTRUCTIONS", "Quantized", "builtin_texts", "plan", "quantize", "tool_versions", "vectors_of"]

#: The canary's smallest cosine that a scheme may have at all, where the recipe does not say: what is below is a recipe that
#: does not suit the model, or a broken graph. Canaries hold hostile texts, which lose the most.
FLOORS = {
    "int8-per-token": 0.97,
    "int8-static": 0.8,
    "int8-dynamic": 0.9,
    "w8": 0.99,
    "w4": 0.85,
    "fp16": 0.9999,
    "bf16": 0.999,
    "mixed": 0.98,
}

#: Another machine rounds a little differently: the canary may lose so many times what it lost here, and this much more.
SLACK_FACTOR, SLACK = 2.0, 1e-3

#: Any of these multiplies unsigned by signed bytes without saturating: x86's VNNI and AMX, and all of ARM's.
INSTRUCTIONS = "avx512_vnni|avx_vnni|amx_int8|asimd"

#: Built-in texts that accuracy is measured on, and as many others for calibration.
NUM_TEXTS = 200

#: 1 - cosine up to which a vector counts as the same: float32's own noise is a tenth of it.
INDEPENDENT = 1e-6

#: Texts of a batch while vectors are compared.
BATCH = 16

#: Built-in texts for graphs of devices that are not here: the CPU provider takes half types apart, which is slow.
FEW_TEXTS = 48


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized artifact.

    Attributes:
        path: its folder.
        variant: the graph's name.
        digest: the artifact's.
        recipe: the recipe's name.
        num_bytes: graph and weights.
        parent_bytes: the same of the float32 graph.
        cosine_mean, cosine_p1, cosine_min: against the float32 graph on the texts.
        neighbors: share of each text's ten nearest texts that float32 has among its ten.
        canary_cosine: smallest cosine of the canary.
        batch_dependent: whether a text's vector depends on its batch mates.
    """

    path: Path
    variant: str
    digest: str
    recipe: str
    num_bytes: int
    parent_bytes: int
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    neighbors: float
    canary_cosine: float
    batch_dependent: bool


def quantize(
    artifact: Path | Artifact,
    recipe: Recipe,
    output: Path,
    *,
    texts: Sequence[str] | None = None,
    calibration: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Quantized:
    """Writes a quantized artifact beside its float32 parent; whole or not at all.

    Args:
        artifact: the parent, with a float32 graph for the recipe's target.
        recipe: how.
        output: the new artifact's folder; an artifact there is replaced.
        texts: to measure on; None takes built-in ones.
        calibration: to calibrate with; None takes every second one of `texts`, which is then not measured on, or other
            built-in ones.
        progress: receives a line per step.

    Raises:
        InputError: the recipe names a matrix that the model does not have, or the texts cannot calibrate it.
        ArtifactError: the parent is no artifact, has no float32 graph or was quantized already, `output` is something else,
            or what came out is too far from the parent.
        MissingPackageError: onnxruntime is not installed.
    """
    parent = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    sources = float_variants(parent, "cpu" if recipe.target == "openvino" else recipe.target)
    source = sources[0]
    if Path(output).resolve() == parent.path.resolve():
        raise ArtifactError(f"{output} is the artifact to quantize: choose another folder")
    if source.exporter != "fletcher":
        raise ArtifactError(
            f"{parent.path} was traced by {source.exporter}: only graphs that Fletcher authored are quantized"
        )
    editors = [GraphEditor(parent, one) for one in sources]
    schemes = plan(recipe, find_matrices(editors[0]))
    measured_on, calibrating = _share(texts, calibration)
    if not measured_on:
        raise InputError("there is no text to measure on: give some, or leave --texts out for the built-in ones")
    with new_artifact(output) as folder:
        seen = None
        if needs_calibration(recipe, schemes.values()):
            progress.line("calibrating")
            seen = calibrate(parent, recipe, schemes, calibrating)
        progress.line("rewriting the graph")
        for editor in editors:
            ProductWriter(editor, recipe, seen).rewrite(find_matrices(editor), schemes)
        weights = f"weights.{recipe.name}.safetensors"
        variants = [_variant(one, recipe, schemes, weights) for one in sources]
        files = {folder / variant.file: editor for variant, editor in zip(variants, editors, strict=True)}
        tables = {source.feeds.tables[name]: table for name, table in parent.tables(source).items()}
        write_graphs(files, folder / weights, tables)
        for file in (TOKENIZER, CANARY):
            shutil.copyfile(parent.path / file, folder / file)
        manifest = Manifest(
            format=parent.manifest.format,
            card=parent.manifest.card,
            origin=parent.manifest.origin,
            variants=tuple(variants),
            files=describe_files(folder),
            canary_reference=parent.manifest.canary_reference,
            parent=parent.digest,
            tools=tool_versions(),
        )
        write_manifest(folder, manifest)
        written = Artifact.open(folder)
        if source.target == "cpu" or source.target in SHOWN_HERE:
            progress.line("measuring against float32")
            measured = _measure(written, variants, parent, sources, recipe, measured_on)
            write_manifest(folder, msgspec.structs.replace(manifest, variants=tuple(measured.variants)))
            written = Artifact.open(folder)
        else:
            measured = _Measured(variants, {}, float("nan"))
    nan = float("nan")
    return Quantized(
        path=Path(output),
        variant=measured.variants[0].name,
        digest=written.digest,
        recipe=recipe.name,
        num_bytes=_num_bytes(written, measured.variants),
        parent_bytes=_num_bytes(parent, sources),
        cosine_mean=measured.figures.get("cosine_mean", nan),
        cosine_p1=measured.figures.get("cosine_p1", nan),
        cosine_min=measured.figures.get("cosine_min", nan),
        neighbors=measured.figures.get("neighbors", nan),
        canary_cosine=measured.canary_cosine,
        batch_dependent=measured.variants[0].batch_dependent,
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """Variants with what was found out about them; no figures where no graph could run."""

    variants: list[Variant]
    figures: dict[str, float]
    canary_cosine: float


def _measure(
    written: Artifact,
    variants: Sequence[Variant],
    parent: Artifact,
    sources: Sequence[Variant],
    recipe: Recipe,
    texts: Sequence[str],
) -> _Measured:
    """Compares the new graphs with the parent's on texts and on its canary.

    Raises:
        ArtifactError: the canary loses more than the recipe allows.
    """
    here = sources[0].target == "cpu"
    if here:
        vectors, reference = vectors_of(written, variants[0], texts), vectors_of(parent, sources[0], texts)
    else:
        card = parent.manifest.card
        encodings = encode_canary(Tokenizer(parent.tokenizer_file, card.max_tokens), card, texts[:FEW_TEXTS], ())
        vectors, reference = (
            vectors_elsewhere(written, variants, encodings),
            vectors_elsewhere(parent, sources, encodings),
        )
    comparison = compare(*_rows(written, vectors, reference))
    cosine = _check_canary(written, variants, recipe)
    tolerance = max(_floor(recipe), 1 - (SLACK_FACTOR * (1 - cosine) + SLACK))
    figures = {
        "cosine_mean": comparison.cosine_mean,
        "cosine_p1": comparison.cosine_p1,
        "cosine_min": comparison.cosine_min,
        "neighbors": comparison.neighbors,
        "texts": float(len(comparison.cosines)),
    }
    depends = variants[0].batch_dependent or (here and _depends_on_batch(written, variants[0], texts))
    known = [
        msgspec.structs.replace(
            variant, tolerance=Accuracy(min_cosine=tolerance), measured=figures, batch_dependent=depends
        )
        for variant in variants
    ]
    return _Measured(known, figures, cosine)


def _share(texts: Sequence[str] | None, calibration: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Texts to measure on and others to calibrate with: a recipe is not judged by what it has seen."""
    if texts is None:
        built_in = builtin_texts()
        return built_in[:NUM_TEXTS], list(calibration if calibration is not None else built_in[NUM_TEXTS:])
    if calibration is not None:
        return list(texts), list(calibration)
    return list(texts[1::2]), list(texts[::2])


def plan(recipe: Recipe, places: Sequence[Place]) -> dict[str, MatrixScheme]:
    """The scheme of each matrix that changes.

    Raises:
        InputError: the recipe names a matrix that is not there, or changes none.
    """
    check_patterns(recipe.patterns, [place.matrix.name for place in places])
    schemes: dict[str, MatrixScheme] = {}
    for place in places:
        name = place.matrix.name
        scheme = recipe.scheme_of(name)
        if place.matrix.kind == "table":
            half = recipe.scheme in ("fp16", "bf16")
            scheme = "fp32" if recipe.embeddings == "fp32" and not half else scheme
        if scheme != "fp32":
            schemes[name] = scheme
    if not schemes:
        raise InputError(f"the recipe {recipe.name} leaves every matrix in float32: exclude fewer")
    return schemes


def builtin_texts() -> list[str]:
    """Texts that every machine has: the first half to measure on, the second to calibrate with, long and short in turn."""
    pairs = zip(corpus("docstrings", NUM_TEXTS), corpus("sentences", NUM_TEXTS), strict=True)
    return [text for pair in pairs for text in pair]


def vectors_of(
    artifact: Artifact, variant: Variant, texts: Sequence[str], *, batch: int = BATCH
) -> NDArray[np.float32]:
    """What a graph for processors makes of texts on ONNX Runtime, float32: a row a text, or a row a token."""
    card = artifact.manifest.card
    tokenizer = Tokenizer(artifact.tokenizer_file, card.max_tokens)
    queries = (*texts[1:], texts[0]) if card.output == "scores" else ()
    encodings = encode_canary(tokenizer, card, texts, queries)
    with open_session(artifact, variant, threads=len(this_machine().processors)) as session:
        return np.concatenate([session.run(part) for part in _batches(encodings, batch)])


def _batches(encodings: Encodings, size: int) -> list[Encodings]:
    """Rows of similar length together would come back in another order: as they come, a few at a time."""
    rows = np.arange(len(encodings))
    return [encodings.select(rows[start : start + size]) for start in range(0, len(rows), size)]


def _depends_on_batch(artifact: Artifact, variant: Variant, texts: Sequence[str]) -> bool:
    """Whether a text alone has another vector than among others: MatMulNBits' kernels differ by the number of rows."""
    some = list(texts[:BATCH])
    alone, together = (vectors_of(artifact, variant, some, batch=size) for size in (1, BATCH))
    ours, theirs = (rows.astype(np.float64) for rows in _rows(artifact, alone, together))
    return bool((1 - cosines(ours, theirs)).max() > INDEPENDENT)


def _rows(
    artifact: Artifact, vectors: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return comparable(artifact.manifest.card.output, vectors, reference)


def _check_canary(artifact: Artifact, variants: Sequence[Variant], recipe: Recipe) -> float:
    """The smallest cosine of the canary.

    Raises:
        ArtifactError: it is less than the recipe allows.
    """
    canary, variant = read_canary(artifact.canary_file), variants[0]
    if variant.target == "cpu":
        with open_session(artifact, variant, threads=len(this_machine().processors)) as session:
            vectors = session.run(canary.encodings)
    else:
        vectors = vectors_elsewhere(artifact, variants, canary.encodings)
    result = canary.judge(vectors, artifact.manifest.card.output, variant.tolerance)
    if not result.passed:
        raise ArtifactError(
            f"the recipe {recipe.name} does too much damage to {artifact.manifest.card.name}: canary {result.reason}. "
            "Exclude the matrices that suffer (`fletcher-convert quantize sensitivity DIR` names them), take another "
            "recipe, or say a lower min_cosine in it"
        )
    return result.min_cosine


def _floor(recipe: Recipe) -> float:
    return FLOORS[recipe.scheme] if recipe.min_cosine is None else recipe.min_cosine


def _variant(source: Variant, recipe: Recipe, schemes: dict[str, MatrixScheme], weights: str) -> Variant:
    """What the manifest says of a graph before it was measured."""
    kinds = set(schemes.values())
    integers = bool(kinds & {"int8-per-token", "int8-static", "int8-dynamic"}) and source.target == "cpu"
    bucket = source.name.removeprefix(f"{source.target}-{source.precision}")
    name = f"{source.target}-{recipe.name.removeprefix(f'{source.target}-')}{bucket}"
    return msgspec.structs.replace(
        source,
        name=name,
        precision=recipe.name,
        file=f"{name}.onnx",
        weights=weights,
        tolerance=Accuracy(min_cosine=_floor(recipe)),
        instructions=(INSTRUCTIONS,) if integers and not recipe.reduced_range else (),
        measured={},
        canary="passed" if source.target == "cpu" else "unchecked",
        recipe=msgspec.to_builtins(recipe),
        batch_dependent="int8-dynamic" in kinds,
    )


def _num_bytes(artifact: Artifact, variants: Sequence[Variant]) -> int:
    """Of graphs and weights, each file once."""
    names = {name for variant in variants for name in (variant.file, variant.weights)}
    return sum(artifact.manifest.files[name].size for name in names)


def tool_versions() -> dict[str, str]:
    """Versions of what decides the result."""
    versions = {name: metadata.version(name) for name in ("numpy", "tokenizers", "safetensors")}
    return {"fletcher": fletcher.__version__, "onnx": onnx.__version__, "python": platform.python_version(), **versions}
