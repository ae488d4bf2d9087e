"""Figures of a quality report as rows of names and texts, which the terminal and the page share. It computes no figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...quality.results import QualityReport

__all__ = ["Row", "compressed_rows", "figure_rows"]

#: Group, name, and the figure of each report; a report without it has an empty text.
Row = tuple[str, str, tuple[str, ...]]

_Show = Callable[[QualityReport], str]

_ALWAYS: tuple[tuple[str, str, _Show], ...] = (
    ("texts", "measured", lambda report: f"{report.different:,} of {report.texts:,}"),
    ("texts", "near-duplicates", lambda report: f"{report.duplicates.near_share:.1%}"),
    ("texts", "copies", lambda report: f"{report.duplicates.copies_share:.1%}"),
    ("texts", "cut at the longest input", lambda report: f"{report.words.truncated:.1%}"),
    ("texts", "with unknown tokens", lambda report: f"{report.words.texts_with_unknown:.1%}"),
    ("texts", "words in pieces", lambda report: f"{report.words.split_words:.1%}"),
    ("cosines", "random pairs, mean", lambda report: f"{report.geometry.random_pairs.mean:.3f}"),
    ("cosines", "nearest neighbors, mean", lambda report: f"{report.geometry.neighbors.mean:.3f}"),
    ("cosines", "tenth neighbors, mean", lambda report: f"{report.geometry.tenth_neighbors.mean:.3f}"),
    ("space", "dimension", lambda report: f"{report.geometry.dimension:,}"),
    ("space", "effective rank", lambda report: f"{report.geometry.effective_rank:.1f}"),
    ("space", "dimensions of 90 % of the variance", lambda report: f"{report.geometry.dimensions_of_variance:,}"),
    ("space", "anisotropy", lambda report: f"{report.geometry.anisotropy:.3f}"),
    ("space", "uniformity", lambda report: f"{report.geometry.uniformity:.2f}"),
    ("space", "hubness (skewness)", lambda report: f"{report.hubness.skewness:.2f}"),
    ("space", "never a neighbor", lambda report: f"{report.hubness.never:.1%}"),
)

_RETRIEVAL: tuple[tuple[str, Callable[..., str]], ...] = (
    ("nDCG@10", lambda found: f"{found.ndcg:.4f}"),
    ("recall@10", lambda found: f"{found.recall_10:.4f}"),
    ("recall@100", lambda found: f"{found.recall_100:.4f}"),
    ("MRR@10", lambda found: f"{found.mrr:.4f}"),
    ("alignment", lambda found: f"{found.alignment:.3f}"),
)

_LABELS: tuple[tuple[str, Callable[..., str]], ...] = (
    ("linear probe, accuracy", lambda found: f"{found.probe_accuracy:.4f}"),
    ("linear probe, F1", lambda found: f"{found.probe_f1:.4f}"),
    ("nearest neighbors, accuracy", lambda found: f"{found.neighbors_accuracy:.4f}"),
    ("nearest neighbors, F1", lambda found: f"{found.neighbors_f1:.4f}"),
    ("a guess, accuracy", lambda found: f"{found.majority:.4f}"),
    ("silhouette", lambda found: f"{found.silhouette:.4f}"),
    ("alignment", lambda found: f"{found.alignment:.3f}"),
)


def figure_rows(reports: Sequence[QualityReport]) -> list[Row]:
    """Return the figures of one or two reports."""
    rows: list[Row] = [(group, name, tuple(show(report) for report in reports)) for group, name, show in _ALWAYS]
    for group, field, shows in (("retrieval", "retrieval", _RETRIEVAL), ("labels", "labels", _LABELS)):
        found = [getattr(report, field) for report in reports]
        if any(one is not None for one in found):
            rows += [(group, name, tuple("" if one is None else show(one) for one in found)) for name, show in shows]
    changes = dict.fromkeys(one.change for report in reports for one in report.robustness)
    for change in changes:
        by_report = [{one.change: one for one in report.robustness}.get(change) for report in reports]
        rows += [
            ("changed texts", f"{change}, cosine", tuple(f"{one.cosine_mean:.4f}" if one else "" for one in by_report)),
            ("changed texts", f"{change}, found", tuple(f"{one.found:.1%}" if one else "" for one in by_report)),
        ]
    return rows


def compressed_rows(report: QualityReport) -> list[tuple[str, ...]]:
    """Return a row for each length and method: neighbors kept by type, and nDCG of float32 and int8."""
    lengths = dict.fromkeys((one.method, one.dimension) for one in report.compressed)
    rows = []
    for method, dimension in lengths:
        by_type = {one.type: one for one in report.compressed if (one.method, one.dimension) == (method, dimension)}
        kept = [
            f"{by_type[kind].overlap:.3f}" if kind in by_type else ""
            for kind in ("float32", "float16", "int8", "binary")
        ]
        ndcg = [
            f"{by_type[kind].ndcg:.3f}" if kind in by_type and by_type[kind].ndcg is not None else ""
            for kind in ("float32", "int8")
        ]
        name = f"{method} (trained)" if by_type["float32"].trained else method
        rows.append((name, f"{dimension:,}", *kept, *(ndcg if report.retrieval else ())))
    return rows
