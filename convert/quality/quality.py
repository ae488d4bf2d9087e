"""`measure_quality`, `compare_quality`: the quality of one artifact's vectors on texts, and of two side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np

import fletcher
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime import Encoder
from fletcher.runtime.options.embed import EmbedOptions

from .embedded import EmbeddedTexts, embed_all
from .inputs import QualityTexts
from .measures.comparison import compare_artifacts
from .measures.compression import Judged, advise, describe_compression
from .measures.geometry import describe_geometry
from .measures.labels import describe_labels, usable_rows
from .measures.neighbors import Neighbors, describe_hubness, find_duplicates, find_neighbors
from .measures.plane import draw_map
from .measures.retrieval import RetrievalTask, describe_retrieval
from .measures.words import describe_words
from .options import QualityOptions
from .packages import require_map_packages, require_pytrec_eval, require_scikit_learn
from .results import ArtifactComparison, Map, QualityReport
from .sentence import conclude

__all__ = ["Measured", "compare_quality", "measure_quality"]


@dataclass(frozen=True, slots=True)
class Measured:
    """`Measured`: a report, and what pages and comparisons need besides it.

    Attributes:
        report: the report.
        texts: the texts.
        embedded: their vectors.
        neighbors: their nearest neighbors.
        map: the texts in the plane; None unless the options ask for it.
    """

    report: QualityReport
    texts: QualityTexts
    embedded: EmbeddedTexts
    neighbors: Neighbors
    map: Map | None


def measure_quality(
    folder: str | Path, texts: QualityTexts, options: QualityOptions | None = None, *, progress: Progress = SILENT
) -> Measured:
    """Measure the quality of an artifact's vectors. Nothing is written.

    Args:
        folder: the artifact's folder.
        texts: texts, and labels, queries and judgments if there are any.
        options: variant, input type and bounds. Default: `QualityOptions()`.
        progress: receives a line per step, and counts texts.

    Raises:
        InputError: the model gives no vectors, a vector has NaN or infinity, or fewer than two labels have enough texts.
        ArtifactError: the artifact cannot be loaded.
        MissingPackageError: a package of the extra `quality` is not installed.
    """
    options = QualityOptions() if options is None else options
    _check(texts, options)
    with Encoder.load(folder, variant=options.variant) as encoder:
        input_type = EmbedOptions(input_type=options.input_type).purpose(encoder.card)
        embedded = embed_all(encoder, texts, input_type, progress)
        card, info, artifact = encoder.card, encoder.info, encoder.artifact
    started = time.perf_counter()
    unit = embedded.unit
    progress.line("finding neighbors")
    neighbors = find_neighbors(unit)
    progress.line("measuring the vectors")
    labels = None if texts.labels is None else describe_labels(unit, texts.labels)
    judged = _judged(texts, embedded)
    retrieval = None if judged is None else describe_retrieval(judged.task, judged.documents, judged.queries)
    progress.line("measuring shorter vectors and smaller types")
    compressed = describe_compression(
        unit, card.matryoshka, layer_norm=card.layer_norm_before_truncation, judged=judged
    )
    placed = None
    if options.with_map:
        progress.line("drawing the map")
        placed = draw_map(unit)
    empty = texts.rows.count(-1)
    report = QualityReport(
        sentence="",
        model=card.name,
        artifact=str(folder),
        digest=artifact.digest,
        variant=info.variant,
        proof=info.proof,
        source=texts.name,
        input_type=input_type,
        texts=len(texts.corpus.texts),
        empty=empty,
        different=len(texts.different),
        geometry=describe_geometry(unit, neighbors.cosines),
        hubness=describe_hubness(neighbors, texts.different),
        duplicates=find_duplicates(
            neighbors,
            texts.different,
            options.duplicate_cosine,
            len(texts.corpus.texts) - empty - len(texts.different),
        ),
        words=describe_words(artifact.tokenizer_file, texts.different, embedded.tokens, embedded.dropped),
        robustness=embedded.robustness,
        compressed=tuple(compressed),
        advice=advise(compressed, options.min_overlap),
        min_overlap=options.min_overlap,
        labels=labels,
        retrieval=retrieval,
        seconds=round(time.perf_counter() - started, 2),
        embedding_seconds=round(embedded.seconds, 2),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        tools=_tools(),
    )
    return Measured(msgspec.structs.replace(report, sentence=conclude(report)), texts, embedded, neighbors, placed)


def compare_quality(first: Measured, second: Measured) -> ArtifactComparison:
    """Compare two artifacts that were measured on the same texts."""
    names = (first.report.model, second.report.model)
    if names[0] == names[1]:
        names = (Path(first.report.artifact).name, Path(second.report.artifact).name)
    return compare_artifacts(
        (first.embedded.unit, first.neighbors), (second.embedded.unit, second.neighbors), names, first.texts.different
    )


def _check(texts: QualityTexts, options: QualityOptions) -> None:
    """Raise the errors of missing packages and unusable labels before anything is embedded."""
    require_scikit_learn("a quality report")
    if texts.queries is not None:
        require_pytrec_eval()
    if options.with_map:
        require_map_packages()
    if texts.labels is not None:
        usable_rows(texts.labels)


def _judged(texts: QualityTexts, embedded: EmbeddedTexts) -> Judged | None:
    """Return the documents with an id that are not empty, and the queries."""
    if texts.queries is None or embedded.queries is None:
        return None
    rows = np.array(texts.rows)
    kept = np.flatnonzero(rows >= 0)
    task = RetrievalTask([texts.corpus.ids[row] for row in kept], texts.queries.ids, texts.judgments)
    return Judged(task, embedded.unit[rows[kept]], embedded.queries)


def _tools() -> dict[str, str]:
    """Return the versions of the packages that decide the figures, by name."""
    names = ("numpy", "scikit-learn", "pytrec-eval-terrier", "umap-learn")
    found = {name: _version(name) for name in names}
    return {"fletcher": fletcher.__version__, **{name: version for name, version in found.items() if version}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
