"""`quantize`: writes a quantized artifact, measures it against its float32 parent, and checks it against its canary."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import onnx

import fletcher
from fletcher.model_zoo.card import Accuracy
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import CANARY, QUERY_WEIGHTS, TOKENIZER, Artifact
from fletcher.runtime.artifact.manifest import FileInfo, Manifest, Variant
from fletcher.runtime.artifact.writing import describe_files, new_artifact, write_manifest
from fletcher.runtime.errors import ArtifactError, InputError

from .calibration import calibrate, needs_calibration
from .cpu_stand_in import STAND_IN_TARGETS
from .graph.activations import Activations
from .graph.editor import GraphEditor, write_graphs
from .graph.matrices import find_matrices, float_variants
from .graph.products import ProductWriter
from .graph.schemes import assign_schemes
from .graph.spool import Spool
from .measure.parent_comparison import Graphs, ParentComparison, canary_floor, compare_with_parent
from .measure.texts import built_in_texts
from .recipe import DEFAULT_RECIPE, MatrixScheme, Recipe, load_recipe

__all__ = ["INSTRUCTIONS", "NUM_TEXTS", "Quantized", "quantize", "tool_versions"]

#: Instruction sets that multiply unsigned by signed bytes without saturation: x86's VNNI and AMX, and ARM's.
INSTRUCTIONS = "avx512_vnni|avx_vnni|amx_int8|asimd"

#: Built-in texts that accuracy is measured on; as many others calibrate.
NUM_TEXTS = 200

#: Most letters of a text in a message.
SHOWN_LETTERS = 40


@dataclass(frozen=True, slots=True)
class Quantized:
    """`Quantized`: a written artifact and its accuracy. A figure is NaN if no graph of the artifact runs on this machine.

    Attributes:
        path: folder of the artifact.
        variant: name of its first variant.
        digest: digest of the artifact.
        recipe: name of the recipe.
        num_bytes: size of graphs and weights.
        parent_bytes: size of the parent's graphs and weights.
        cosine_mean: mean cosine with the parent over the texts.
        cosine_p1: first percentile of the cosines.
        cosine_min: smallest cosine.
        neighbors: share of each text's ten nearest texts that the parent also has among its ten nearest, 0 to 1.
        canary_cosine: smallest cosine of the canary, whose texts are others than the measured ones.
        canary_text: text of the canary that has it; None if the model does not give a vector per text.
        texts: number of measured texts.
        batch_dependent: whether a text's vector depends on the other texts of its batch.
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
    canary_text: str | None
    texts: int
    batch_dependent: bool

    def explain_canary(self) -> str:
        """Return the reason why the canary's cosine is lower than that of every measured text; empty if it is not lower."""
        if not self.canary_cosine < self.cosine_min:
            return ""
        worst = ""
        if self.canary_text is not None:
            shown = (
                self.canary_text if len(self.canary_text) <= SHOWN_LETTERS else self.canary_text[:SHOWN_LETTERS] + "…"
            )
            worst = (
                f", of which {shown!r} has the lowest cosine"
                if shown
                else ", of which the empty one has the lowest cosine"
            )
        return (
            f"The canary cosine, {self.canary_cosine:.7f}, is below that of all {self.texts} measured texts, because the "
            f"canary has other, deliberately unusual texts{worst}. They show at every load that the artifact is intact; the "
            "accuracy is that of the measured texts."
        )


def quantize(
    artifact: str | Path | Artifact,
    output: str | Path,
    recipe: str | Path | Recipe = DEFAULT_RECIPE,
    *,
    texts: Iterable[str] | None = None,
    calibration: Iterable[str] | None = None,
    activations: Mapping[str, Activations] | None = None,
    progress: Progress = SILENT,
) -> Quantized:
    """Write a quantized artifact, and measure it against its parent. After an error nothing is left behind.

    Args:
        artifact: the parent, or its folder; it has a float32 graph for the recipe's target.
        output: folder of the new artifact; an artifact there is replaced.
        recipe: a recipe, the name of a built-in one, or the path of a TOML file.
        texts: texts to measure on. Default: built-in texts.
        calibration: texts to calibrate with. Default: every second one of `texts`, which is then not measured on; without
            `texts`, other built-in texts.
        activations: statistics of the activations by matrix, of a model that was trained with them. Default: those of the
            calibration texts.
        progress: receives a line per step.

    Returns:
        The written artifact and its accuracy.

    Raises:
        InputError: the recipe does not exist or names a matrix that the model does not have, or the texts are too few.
        ArtifactError: the parent cannot be read, has no float32 graph or is quantized already; `output` is not an artifact;
            or the result differs too much from the parent.
        MissingPackageError: onnxruntime is not installed.

    Example:
        >>> from fletcher import quantize
        >>> quantize("minilm", "minilm-int8").cosine_mean  # doctest: +SKIP
        0.9993
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    parent = _find_parent(artifact, recipe, Path(output))
    editors = [GraphEditor(parent.artifact, variant) for variant in parent.variants]
    schemes = assign_schemes(recipe, find_matrices(editors[0]))
    measured_texts, calibrating = _split_texts(texts, calibration)
    if not measured_texts:
        raise InputError("there is no text to measure on: give at least one, or omit --texts to use the built-in texts")
    with new_artifact(output) as folder:
        if activations is None and needs_calibration(recipe, schemes.values()):
            progress.line("calibrating")
            activations = calibrate(parent.artifact, recipe, schemes, calibrating, folder=folder)
        progress.line("rewriting the graph")
        variants, info = _write_graphs(folder, parent, editors, recipe, schemes, activations)
        manifest = _write_manifest(folder, parent.artifact, variants, {variants[0].weights: info})
        written = Graphs(Artifact.open(folder), variants)
        comparison = None
        if variants[0].target == "cpu" or variants[0].target in STAND_IN_TARGETS:
            progress.line("measuring against float32")
            comparison = compare_with_parent(written, parent, recipe, measured_texts)
            variants = [_add_measurements(variant, comparison) for variant in variants]
            write_manifest(folder, msgspec.structs.replace(manifest, variants=tuple(variants)))
            written = Graphs(Artifact.open(folder), variants)
    figures = {} if comparison is None else comparison.figures
    nan = float("nan")
    return Quantized(
        path=Path(output),
        variant=variants[0].name,
        digest=written.artifact.digest,
        recipe=recipe.name,
        num_bytes=written.num_bytes,
        parent_bytes=parent.num_bytes,
        cosine_mean=figures.get("cosine_mean", nan),
        cosine_p1=figures.get("cosine_p1", nan),
        cosine_min=figures.get("cosine_min", nan),
        neighbors=figures.get("neighbors", nan),
        canary_cosine=nan if comparison is None else comparison.canary_cosine,
        canary_text=None if comparison is None else comparison.canary_text,
        texts=int(figures.get("texts", 0)),
        batch_dependent=variants[0].batch_dependent,
    )


def _find_parent(artifact: str | Path | Artifact, recipe: Recipe, output: Path) -> Graphs:
    """Return the graphs that the recipe quantizes.

    Raises:
        ArtifactError: the artifact has no such graph, another exporter wrote it, or `output` is its own folder.
    """
    parent = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    sources = float_variants(parent, "cpu" if recipe.target == "openvino" else recipe.target)
    if output.resolve() == parent.path.resolve():
        raise ArtifactError(f"{output} is the artifact to quantize: choose another folder")
    if sources[0].exporter != "fletcher":
        raise ArtifactError(
            f"{parent.path} was traced by {sources[0].exporter}, and only graphs that Fletcher authored can be quantized: "
            "export the checkpoint with `--exporter fletcher`"
        )
    return Graphs(parent, sources)


def _split_texts(texts: Iterable[str] | None, calibration: Iterable[str] | None) -> tuple[list[str], list[str]]:
    """Return the texts to measure on and other texts to calibrate with: calibrated ranges suit the calibration texts best."""
    if texts is None:
        built_in = built_in_texts(NUM_TEXTS)
        return built_in[:NUM_TEXTS], built_in[NUM_TEXTS:] if calibration is None else list(calibration)
    given = list(texts)
    if calibration is not None:
        return given, list(calibration)
    return given[1::2], given[::2]


def _write_graphs(
    folder: Path,
    parent: Graphs,
    editors: Sequence[GraphEditor],
    recipe: Recipe,
    schemes: dict[str, MatrixScheme],
    activations: Mapping[str, Activations] | None,
) -> tuple[list[Variant], FileInfo]:
    """Write the rewritten graphs and their weights, and return their variants, and size and digest of the weights."""
    weights = f"weights.{recipe.name}.safetensors"
    variants = [_describe_variant(source, recipe, schemes, weights) for source in parent.variants]
    files = {folder / variant.file: editor for variant, editor in zip(variants, editors, strict=True)}
    first = parent.variants[0]
    tables = {first.feeds.tables[name]: table for name, table in parent.artifact.tables(first).items()}
    with Spool(folder) as spool:
        for editor in editors:
            editor.keep = spool.keep
            ProductWriter(editor, recipe, activations).rewrite(find_matrices(editor), schemes)
        return variants, write_graphs(files, folder / weights, tables)


def _write_manifest(
    folder: Path, parent: Artifact, variants: Sequence[Variant], known: Mapping[str, FileInfo]
) -> Manifest:
    """Copy the parent's other files, and write the manifest of graphs that are not measured yet.

    Args:
        folder: folder of the new artifact.
        parent: artifact that was quantized.
        variants: the graphs.
        known: size and digest of files that were hashed when they were written.
    """
    for file in (TOKENIZER, CANARY, *([QUERY_WEIGHTS] if QUERY_WEIGHTS in parent.manifest.files else [])):
        shutil.copyfile(parent.path / file, folder / file)
    manifest = Manifest(
        format=parent.manifest.format,
        card=parent.manifest.card,
        origin=parent.manifest.origin,
        variants=tuple(variants),
        files=describe_files(folder, known),
        canary_reference=parent.manifest.canary_reference,
        parent=parent.digest,
        tools=tool_versions(),
        ignored_keys=parent.manifest.ignored_keys,
        tokenizer_like=parent.manifest.tokenizer_like,
        strips_texts=parent.manifest.strips_texts,
        content=parent.manifest.content,
    )
    write_manifest(folder, manifest)
    return manifest


def _describe_variant(source: Variant, recipe: Recipe, schemes: dict[str, MatrixScheme], weights: str) -> Variant:
    """Return the manifest's entry of a graph that is not measured yet."""
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
        tolerance=Accuracy(min_cosine=canary_floor(recipe)),
        instructions=(INSTRUCTIONS,) if integers and not recipe.reduced_range else (),
        measured={},
        canary="passed" if source.target == "cpu" else "unchecked",
        recipe=msgspec.to_builtins(recipe),
        batch_dependent="int8-dynamic" in kinds,
    )


def _add_measurements(variant: Variant, comparison: ParentComparison) -> Variant:
    """Return the manifest's entry of a graph with its measured figures."""
    return msgspec.structs.replace(
        variant,
        tolerance=Accuracy(min_cosine=comparison.tolerance),
        measured=comparison.figures,
        batch_dependent=comparison.batch_dependent,
    )


def tool_versions() -> dict[str, str]:
    """Return the versions of the packages that decide the result, by name."""
    versions = {name: metadata.version(name) for name in ("numpy", "tokenizers", "safetensors")}
    return {"fletcher": fletcher.__version__, "onnx": onnx.__version__, "python": platform.python_version(), **versions}
