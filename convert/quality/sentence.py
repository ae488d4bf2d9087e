"""`conclude`: the result of a quality report in one sentence."""

from __future__ import annotations

from .results import Compressed, Duplicates, Hubness, QualityReport, Retrieval, Separability, Words

__all__ = ["conclude", "describe_advice"]

#: Figures above which the sentence names a problem.
SKEWED, REPEATED, CUT, UNKNOWN = 3.0, 0.1, 0.05, 0.01


def conclude(report: QualityReport) -> str:
    """Return the sentence: what the vectors achieve, how small they can be, and the largest problem of the texts."""
    parts = [f"On {report.different:,} texts, {report.model}"]
    parts.append(f"{_achieved(report.retrieval, report.labels, report)};")
    parts.append(describe_advice(report.advice, report.geometry.dimension, report.min_overlap))
    problems = _problems(report.words, report.duplicates, report.hubness)
    return " ".join(parts) + (f"; {problems[0]}." if problems else ".")


def describe_advice(advice: Compressed | None, dimension: int, min_overlap: float) -> str:
    """Return the advice on dimension and type as a clause."""
    if advice is None or (advice.method == "full" and advice.type == "float32"):
        return f"no smaller vectors keep {min_overlap:.2f} of the ten neighbors"
    ways = {"full": "", "cut": " (the first ones)", "pca": " (PCA)", "pca-whitened": " (PCA, whitened)"}
    return (
        f"{advice.dimension} dimensions{ways[advice.method]} in {advice.type}, {advice.bytes:,} bytes instead of "
        f"{4 * dimension:,}, keep {advice.overlap:.2f} of the ten neighbors"
    )


def _achieved(retrieval: Retrieval | None, labels: Separability | None, report: QualityReport) -> str:
    if retrieval is not None:
        return f"reaches an nDCG@10 of {retrieval.ndcg:.3f} for {retrieval.queries:,} queries"
    if labels is not None:
        return (
            f"separates {len(labels.labels)} labels with an accuracy of {labels.probe_accuracy:.2f} "
            f"(a guess: {labels.majority:.2f})"
        )
    return (
        f"gives two random texts a cosine of {report.geometry.random_pairs.mean:.2f} and nearest neighbors one of "
        f"{report.geometry.neighbors.mean:.2f}"
    )


def _problems(words: Words, duplicates: Duplicates, hubness: Hubness) -> list[str]:
    """Return the problems of the texts, the most harmful first."""
    problems = []
    if words.truncated > CUT:
        problems.append(f"{words.truncated:.0%} of the texts are longer than the model's longest input and were cut")
    if words.texts_with_unknown > UNKNOWN:
        problems.append(
            f"{words.texts_with_unknown:.0%} of the texts have words or letters that the tokenizer does not know"
        )
    if duplicates.copies_share + duplicates.near_share > REPEATED:
        near = f"{duplicates.near_share:.0%} of the others have a near-duplicate"
        if duplicates.copies_share < 0.005:  # which is shown as 0 %
            problems.append(near.replace("the others", "the texts"))
        else:
            problems.append(f"{duplicates.copies_share:.0%} of the texts are copies and {near}")
    if hubness.skewness > SKEWED:
        problems.append(f"one text is among the {hubness.neighbors} neighbors of {hubness.largest:,} others (a hub)")
    return problems
