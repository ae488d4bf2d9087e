"""`reduce_artifact`: writes an artifact whose last layer is PCA, and measures the neighbors that it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.artifact.durable import new_folder
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.errors import ArtifactError, InputError
from fletcher.runtime.model_info import require_output

from ...checkpoint.routes.layout import chosen_task
from ...checkpoint.tokenizer_version import TokenizerLike
from ...export.export import export
from ...export.options import ExportOptions
from ...verify.verify import fetch_reference, is_installed
from ..embedded import unit_vectors
from ..inputs import FEWEST_TEXTS
from ..measures.compression import advise, describe_compression, lengths_to_try, neighbors_kept
from ..measures.projection import Projection, fit_projection
from ..packages import require_scikit_learn
from .checkpoint import check_reducible, write_reduced

__all__ = ["ReduceOptions", "Reduced", "reduce_artifact"]

#: Smallest cosine of a vector of the new artifact, which may run in a half type, with the projected original vector.
SMALLEST_COSINE = 0.99


class ReduceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`ReduceOptions`: the options of a reduction.

    Attributes:
        dimensions: length of the new vectors. Default: the shortest measured one that keeps `min_overlap` in int8.
        whiten: whether each component is divided by its standard deviation, after subtraction of the mean.
        min_overlap: smallest share of the ten nearest neighbors to keep, if `dimensions` is None.
        checkpoint: folder of the reduced checkpoint. Default: beside the artifact, with the suffix `-checkpoint`.
        verify: whether the artifact is compared with sentence-transformers. Default: if the extra `verify` is installed.
    """

    dimensions: int | None = None
    whiten: bool = False
    min_overlap: float = 0.95
    checkpoint: str | None = None
    verify: bool | None = None

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise InputError(f"dimensions is {self.dimensions}, and must be at least 1")
        if not 0 <= self.min_overlap <= 1:
            raise InputError(f"min_overlap is {self.min_overlap:g}, and must be between 0 and 1")
        if self.whiten and self.dimensions is None:
            raise InputError(
                "whitened vectors have other neighbors, so no length follows from them: choose --dimensions"
            )


@dataclass(frozen=True, slots=True)
class Reduced:
    """`Reduced`: a written artifact, and the neighbors that it keeps.

    Attributes:
        sentence: the result in one sentence.
        path: folder of the artifact.
        checkpoint: folder of the checkpoint that it was converted from, which sentence-transformers loads.
        digest: digest of the artifact.
        status: origin of its canary: `verified` if it was compared with sentence-transformers.
        dimension: length of its vectors.
        shorter: shorter lengths that requests may ask for: PCA to those lengths.
        parent_dimension: length of the vectors of the original artifact.
        variance: share of the variance that the components hold.
        texts: number of texts that the neighbors were measured on, and that PCA was not fitted on.
        overlap: share of their ten nearest neighbors by the original artifact that the new one has, in float32.
        overlap_float16: the same with vectors in float16.
        overlap_int8: the same with vectors in int8.
    """

    sentence: str
    path: Path
    checkpoint: Path
    digest: str
    status: str
    dimension: int
    shorter: tuple[int, ...]
    parent_dimension: int
    variance: float
    texts: int
    overlap: float
    overlap_float16: float
    overlap_int8: float


def reduce_artifact(
    folder: str | Path,
    output: str | Path,
    texts: Sequence[str],
    options: ReduceOptions | None = None,
    *,
    progress: Progress = SILENT,
) -> Reduced:
    """Fit PCA to the vectors of texts, and convert the checkpoint again with PCA as its last layer.

    Every second text fits PCA, and the others are measured. The new artifact has the targets and float precisions of the
    original one.

    Args:
        folder: an artifact with a float32 graph for processors.
        output: folder of the new artifact; an artifact there is replaced.
        texts: texts like those that will be embedded.
        options: length, whitening and checks. Default: `ReduceOptions()`.
        progress: receives a line per step.

    Raises:
        InputError: the model gives no vectors, there are too few texts, the length is not below the model's or the number of
            texts, or no length keeps enough neighbors.
        ArtifactError: the artifact has no float32 graph, was quantized or traced, or cannot be read; or `output` is its
            folder.
        CheckpointError: the checkpoint shortens its vectors after its last module.
        SourceError: the checkpoint cannot be fetched.
        MissingPackageError: scikit-learn, or a package of the extra `verify` that `options` asks for, is not installed.
        VerificationError: the new artifact differs from sentence-transformers.
    """
    options = ReduceOptions() if options is None else options
    require_scikit_learn("PCA")
    parent, output = Artifact.open(folder), Path(output)
    card = parent.manifest.card
    require_output(card, "vectors")
    variant = _float_variant(parent, output)
    different = list(dict.fromkeys(text for text in texts if text.strip()))
    fitting, held = different[::2], different[1::2]
    _check_length(card, options.dimensions, len(fitting))
    checkpoint = Path(options.checkpoint) if options.checkpoint else output.with_name(f"{output.name}-checkpoint")
    _check_folder(checkpoint)
    checkout = fetch_reference(parent, None, progress)
    check_reducible(checkout.folder)
    progress.line(f"embedding {len(different):,} texts")
    with Encoder.load(folder, variant=variant.name) as encoder:
        fitted, original = (unit_vectors(encoder.embed(part).vectors, part) for part in (fitting, held))
    projection = _fit(fitted, original, card, options)
    length = len(projection.weight)
    progress.line(f"writing the checkpoint with {length} dimensions")
    with new_folder(checkpoint) as temporary:
        write_reduced(checkout, card, projection, temporary)
    shorter = [one for one in lengths_to_try(length, ()) if one < length]
    exported = export(
        str(checkpoint),
        output,
        ExportOptions(
            targets=tuple(dict.fromkeys(one.target for one in parent.manifest.variants)),
            precisions=tuple(dict.fromkeys(one.precision for one in parent.manifest.variants)),
            verify=is_installed() if options.verify is None else options.verify,
            dimensions=() if options.whiten else shorter,
            ignored_keys=parent.manifest.ignored_keys,
            tokenizer_like=_version(parent.manifest.tokenizer_like),
            name=f"{card.name}-{length}",
            task=chosen_task(checkpoint, card.input_type),
        ),
        progress=progress,
    )
    progress.line(f"measuring {len(held):,} other texts")
    with Encoder.load(output) as encoder:
        shortened = unit_vectors(encoder.embed(held).vectors, held)
    _check_projected(shortened, projection(original), exported.path)
    kept = neighbors_kept(original, shortened)
    return Reduced(
        sentence=f"{length} dimensions in int8, {length} bytes instead of {4 * card.dimension:,}, keep {kept['int8']:.2f} of "
        "your ten neighbors.",
        path=output,
        checkpoint=checkpoint,
        digest=exported.digest,
        status=exported.status,
        dimension=length,
        shorter=() if options.whiten else tuple(shorter),
        parent_dimension=card.dimension,
        variance=float(projection.variance.sum()),
        texts=len(held),
        overlap=kept["float32"],
        overlap_float16=kept["float16"],
        overlap_int8=kept["int8"],
    )


def _float_variant(parent: Artifact, output: Path) -> Variant:
    """Return the float32 graph for processors.

    Raises:
        ArtifactError: there is none, a graph was quantized or traced, or `output` is the artifact's own folder.
    """
    if output.resolve() == parent.path.resolve():
        raise ArtifactError(f"{output} is the artifact to reduce: choose another folder")
    for one in parent.manifest.variants:
        if one.recipe is not None:
            raise ArtifactError(f"{parent.path} is quantized: reduce the float32 artifact, and quantize the result")
        if one.exporter != "fletcher":
            raise ArtifactError(
                f"{parent.path} was traced by {one.exporter}, and PCA becomes a layer only of graphs that Fletcher writes"
            )
    found = [one for one in parent.of_target("cpu") if one.precision == "fp32"]
    if not found:
        raise ArtifactError(f"{parent.path} has no variant cpu-fp32, whose vectors PCA is fitted to: export it too")
    return found[0]


def _check_length(card: ModelCard, length: int | None, texts: int) -> None:
    """Raise an error if there are too few texts, or the length is not below the model's.

    Raises:
        InputError: that is so.
    """
    if texts < FEWEST_TEXTS // 2:
        raise InputError(
            f"there are {2 * texts} different texts, and at least {FEWEST_TEXTS} are needed to fit and to measure"
        )
    if length is not None and length >= card.dimension:
        raise InputError(f"--dimensions {length}: {card.name} has {card.dimension} dimensions; choose fewer")
    if length is not None and length >= texts:
        raise InputError(
            f"--dimensions {length}: half of the different texts, {texts}, fit PCA, and it needs more texts than dimensions"
        )


def _check_folder(checkpoint: Path) -> None:
    """Raise an error if a folder has something else than a checkpoint that this function wrote.

    Raises:
        InputError: it is not empty, and has no `modules.json`.
    """
    if checkpoint.exists() and any(checkpoint.iterdir()) and not (checkpoint / "modules.json").is_file():
        raise InputError(
            f"{checkpoint} exists and is not a checkpoint: it is not replaced. Choose another --checkpoint"
        )


def _fit(fitted: NDArray[np.float32], held: NDArray[np.float32], card: ModelCard, options: ReduceOptions) -> Projection:
    """Return PCA to the requested length, or to the shortest one that keeps enough neighbors in int8.

    Raises:
        InputError: no length keeps enough.
    """
    if options.dimensions is not None:
        return fit_projection(fitted, options.dimensions, whiten=options.whiten)
    both = np.empty((len(fitted) + len(held), card.dimension), np.float32)
    both[::2], both[1::2] = fitted, held  # `describe_compression` fits every second text, too
    results = [one for one in describe_compression(both, ()) if one.method == "pca" and one.type == "int8"]
    advice = advise(results, options.min_overlap)
    if advice is None:
        best = max((one.overlap for one in results), default=0.0)
        raise InputError(
            f"no shorter vectors keep {options.min_overlap:.2f} of the ten neighbors (the best {best:.2f}): choose "
            "--dimensions, or a smaller --min-overlap"
        )
    return fit_projection(fitted, advice.dimension)


def _check_projected(found: NDArray[np.float32], expected: NDArray[np.float32], path: Path) -> None:
    """Compare the vectors of the new artifact with the projected vectors of the original one.

    Verification compares the artifact with the written checkpoint, which would hide a projection that was written wrongly.

    Raises:
        ArtifactError: they differ.
    """
    worst = float(np.einsum("nd,nd->n", found, expected).min())
    if worst < SMALLEST_COSINE:
        raise ArtifactError(
            f"the vectors of {path} differ from the projected ones of the original artifact (cosine {worst:.6f}): do not "
            "use it, and report this as a defect of Fletcher"
        )


def _version(like: str | None) -> TokenizerLike | None:
    """Return the version of transformers whose token ids an artifact gives, as the export takes it."""
    return next((one for one in get_args(TokenizerLike) if like == f"transformers {one}"), None)
