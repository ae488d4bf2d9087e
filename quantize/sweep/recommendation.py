"""Which points of a sweep are worth having, and which one to take: from figures alone."""

from __future__ import annotations

from collections.abc import Sequence

from .results import Point

__all__ = ["INDEPENDENT", "eligible", "pareto_front", "recommend", "worth_keeping"]

#: A point that is not at least so much faster or smaller than float32 has no reason to be.
LEAST_GAIN = 0.02

#: Speeds closer than this are one: rounds on a busy machine differ by as much, and the smaller file decides.
SAME_SPEED = 0.03

#: 1 - cosine between a text alone and in a batch, up to which it does not depend on its batch mates.
INDEPENDENT = 1e-6


def worth_keeping(point: Point) -> str:
    """Why a point is dropped; empty where it is faster or smaller than float32 on this machine."""
    if point.problem:
        return point.problem
    faster = point.speed is not None and point.speed.ratio > 1 + LEAST_GAIN
    if faster or point.size < 1 - LEAST_GAIN:
        return ""
    return "neither faster nor smaller than float32 on this machine"


def pareto_front(points: Sequence[Point]) -> list[str]:
    """Names of the points that no other beats: none is at least as accurate, fast and small, and better in one of them."""
    measured = [point for point in points if point.quality is not None and point.speed is not None]
    goods = {point.name: _goods(point) for point in measured}
    return [
        name
        for name, ours in goods.items()
        if not any(
            all(their >= our for their, our in zip(theirs, ours, strict=True)) and theirs != ours
            for theirs in goods.values()
        )
    ]


def _goods(point: Point) -> tuple[float, float, float]:
    """Accuracy, speed, smallness: more is better."""
    assert point.quality is not None and point.speed is not None
    return point.quality.cosine_mean, point.speed.ratio, -point.size


def eligible(point: Point, min_cosine: float, min_overlap: float) -> bool:
    """Whether a point may be recommended: it keeps the bounds, and no text depends on its batch mates."""
    quality = point.quality
    if quality is None or point.speed is None:
        return False
    near = quality.cosine_min >= min_cosine and quality.overlap >= min_overlap
    return near and quality.batch_cosine >= 1 - INDEPENDENT


def recommend(parent: Point, points: Sequence[Point], min_cosine: float, min_overlap: float) -> tuple[str | None, str]:
    """The point to take, and why, in one sentence.

    Args:
        parent: float32.
        points: the others that are worth keeping.
        min_cosine: smallest cosine with float32 that a text may have.
        min_overlap: least share of float32's ten nearest neighbors.

    Returns:
        A name, or None where float32 should be kept; and the sentence.
    """
    able = [point for point in points if eligible(point, min_cosine, min_overlap)]
    asked = f"a cosine of at least {min_cosine:g} for every text and {min_overlap:.0%} of the ten nearest neighbors"
    if not able:
        best = max(
            (point for point in points if point.quality is not None),
            key=lambda point: point.quality.cosine_min if point.quality else 0.0,
            default=None,
        )
        nearest = ""
        if best is not None and best.quality is not None:
            nearest = (
                f"; {best.name} comes nearest with {best.quality.cosine_min:.4f} and {best.quality.overlap:.1%}"
                f"{'' if best.quality.batch_cosine >= 1 - INDEPENDENT else ', and depends on batch mates'}"
            )
        return None, f"Keep float32: nothing that is faster or smaller here keeps {asked}{nearest}."
    fastest = max(_ratio(point) for point in able)
    chosen = min(
        (point for point in able if _ratio(point) >= fastest * (1 - SAME_SPEED)),
        key=lambda point: (point.size, -_ratio(point)),
    )
    quality = chosen.quality
    assert quality is not None
    gain = f"{_ratio(chosen):.2f} times float32's throughput on this machine at {chosen.size:.0%} of its size"
    if chosen.recipe is not None and chosen.recipe.target != "cpu":
        gain += f" when served with --provider {chosen.recipe.target}"
    kept = f"the worst text keeps a cosine of {quality.cosine_min:.4f}, and {quality.overlap:.1%} of the ten nearest"
    return (
        chosen.name,
        f"Take {chosen.name}: {gain}, and it keeps what was asked for ({asked}): {kept} neighbors stay.",
    )


def _ratio(point: Point) -> float:
    return point.speed.ratio if point.speed is not None else 0.0
