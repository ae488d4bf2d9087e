"""Figures of a quality report as rows of names and texts, which the terminal and the page share. It computes no figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...quality.results import QualityReport

__all__ = ["Row", "compressed_rows", "explain_figure", "figure_rows"]

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


#: Meanings of the figures, by group and the beginning of the name.
_MEANINGS: Mapping[str, Mapping[str, str]] = {
    "texts": {
        "measured": "Different texts that are not empty.",
        "near-duplicates": "Texts that have another one with a cosine at or above --duplicate-cosine.",
        "copies": "Texts that equal an earlier one; they are measured once.",
        "cut": "Texts that the model does not read to their end.",
        "with unknown": "Texts with letters that the tokenizer cannot write.",
        "words": "Words that the vocabulary does not have as a whole. With many of them, the model saw few texts like these.",
    },
    "cosines": {
        "random": "Cosine of two unrelated texts. A search result with such a cosine is no better than chance.",
        "nearest": "Cosine of each text with the most similar other one.",
        "tenth": "Cosine of each text with its tenth neighbor.",
    },
    "space": {
        "dimension ": "Length of a vector.",
        "effective": "Number of directions that the vectors use. Far below the dimension, shorter vectors lose little.",
        "dimensions": "Directions that hold 90 % of the differences between the vectors.",
        "anisotropy": "Mean cosine of all pairs. At 0 the vectors point in all directions; near 1 all texts look alike.",
        "uniformity": "Spread over the sphere. The lower, the more evenly; 0 means that all vectors are equal.",
        "hubness": "Whether few texts are neighbors of many others. Near 0 none is; above about 3, searches repeat them.",
        "never": "Texts that are among the ten nearest neighbors of no other text: a search rarely finds them.",
    },
    "retrieval": {
        "nDCG": "Quality of the first ten results, from 0 to 1: the texts that belong to the query, best on top.",
        "recall@10 ": "Share of the texts that belong to a query among its first ten results.",
        "recall@100": "The same among the first hundred results.",
        "MRR": "Mean of 1 divided by the rank of the first text that belongs to the query, within ten results.",
        "alignment": "Mean squared distance of a query and its texts. The lower, the nearer.",
    },
    "labels": {
        "linear probe, accuracy": "Share of the labels that a linear classifier of the vectors finds.",
        "linear probe, F1": "The same with equal weight for each label, from 0 to 1.",
        "nearest neighbors, accuracy": "Share of the labels that a text's neighbors tell.",
        "nearest neighbors, F1": "The same with equal weight for each label, from 0 to 1.",
        "a guess": "Accuracy of the most frequent label for all texts: the figures above must beat it.",
        "silhouette": "Separation of the labels, from -1 to 1. Near 0 they overlap.",
        "alignment": "Mean squared distance of two texts with one label. The lower, the nearer.",
    },
    "changed texts": {
        "cosine": "Mean cosine of a text with its changed form; 1 means that the change does not matter.",
        "found": "Changed texts whose nearest text is the original.",
    },
}


def explain_figure(group: str, name: str) -> str:
    """Return the meaning of a figure in a sentence or two for people who do not know it."""
    part = name.rpartition(", ")[2] if group == "changed texts" else name
    return next(text for start, text in _MEANINGS[group].items() if f"{part} ".startswith(start))


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
