"""`recommend`: chooses a candidate of a sweep by its figures."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Candidate

__all__ = ["INDEPENDENT", "eligible", "pareto_front", "reason_to_drop", "recommend"]

#: Smallest gain in speed or size over float32 that makes a candidate useful.
LEAST_GAIN = 0.02

#: Speeds that differ by less count as equal, because rounds on a busy machine differ as much; the smaller file decides.
SAME_SPEED = 0.03

#: Largest 1 - cosine between a text alone and in a batch that counts as independent of the batch.
INDEPENDENT = 1e-6


def reason_to_drop(candidate: Candidate) -> str:
    """Return the reason to drop a candidate; empty if it is faster or smaller than float32 on this machine."""
    if candidate.problem:
        return candidate.problem
    faster = candidate.speed is not None and candidate.speed.ratio > 1 + LEAST_GAIN
    if faster or candidate.size < 1 - LEAST_GAIN:
        return ""
    return "neither faster nor smaller than float32 on this machine"


def pareto_front(candidates: Sequence[Candidate]) -> list[str]:
    """Return the names of the Pareto front.

    A candidate beats another one if it is at least as accurate, fast and small, and better in one of them.
    """
    measured = [candidate for candidate in candidates if candidate.quality is not None and candidate.speed is not None]
    merits = {candidate.name: _merits(candidate) for candidate in measured}
    return [
        name
        for name, ours in merits.items()
        if not any(
            all(their >= our for their, our in zip(theirs, ours, strict=True)) and theirs != ours
            for theirs in merits.values()
        )
    ]


def _merits(candidate: Candidate) -> tuple[float, float, float]:
    """Return accuracy, speed and smallness; larger values are better."""
    assert candidate.quality is not None and candidate.speed is not None
    return candidate.quality.cosine_mean, candidate.speed.ratio, -candidate.size


def eligible(candidate: Candidate, min_cosine: float, min_overlap: float) -> bool:
    """Return whether a candidate may be recommended: it is within the bounds and does not depend on the batch."""
    quality = candidate.quality
    if quality is None or candidate.speed is None:
        return False
    near = quality.cosine_min >= min_cosine and quality.overlap >= min_overlap
    return near and quality.batch_cosine >= 1 - INDEPENDENT


def recommend(candidates: Sequence[Candidate], min_cosine: float, min_overlap: float) -> tuple[str | None, str]:
    """Choose a candidate, and give the reason in one sentence.

    Args:
        candidates: the useful candidates, without float32.
        min_cosine: smallest cosine with float32 that any text may have.
        min_overlap: smallest share of float32's ten nearest neighbors.

    Returns:
        The candidate's name, or None to keep float32; and the sentence.
    """
    able = [candidate for candidate in candidates if eligible(candidate, min_cosine, min_overlap)]
    bounds = f"a cosine of at least {min_cosine:g} for every text and {min_overlap:.0%} of the ten nearest neighbors"
    if not able:
        return None, f"Keep float32: no recipe that is faster or smaller here keeps {bounds}{_nearest(candidates)}."
    fastest = max(_ratio(candidate) for candidate in able)
    chosen = min(
        (candidate for candidate in able if _ratio(candidate) >= fastest * (1 - SAME_SPEED)),
        key=lambda candidate: (candidate.size, -_ratio(candidate)),
    )
    quality = chosen.quality
    assert quality is not None
    gain = f"{_ratio(chosen):.2f} times float32's throughput on this machine at {chosen.size:.0%} of its size"
    if chosen.recipe is not None and chosen.recipe.target != "cpu":
        gain += f" when served with --provider {chosen.recipe.target}"
    figures = (
        f"every text has a cosine of {quality.cosine_min:.4f} or more, and {quality.overlap:.1%} of the ten nearest "
        "neighbors stay"
    )
    return chosen.name, f"Take {chosen.name}: {gain}, within the bounds ({bounds}): {figures}."


def _nearest(candidates: Sequence[Candidate]) -> str:
    """Return the part of the sentence about the candidate with the highest smallest cosine; empty if nothing was measured."""
    best = max(
        (candidate for candidate in candidates if candidate.quality is not None),
        key=lambda candidate: candidate.quality.cosine_min if candidate.quality else 0.0,
        default=None,
    )
    if best is None or best.quality is None:
        return ""
    depends = "" if best.quality.batch_cosine >= 1 - INDEPENDENT else ", and depends on the batch"
    return f"; {best.name} comes nearest with {best.quality.cosine_min:.4f} and {best.quality.overlap:.1%}{depends}"


def _ratio(candidate: Candidate) -> float:
    return candidate.speed.ratio if candidate.speed is not None else 0.0
