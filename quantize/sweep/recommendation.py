"""`recommend`: chooses a candidate of a sweep by its figures, as far as their spread allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..measure.quality import Quality
from ..measure.speed import Speed
from .results import Candidate
from .ties import SAME_SPEED, fastest, same_speed

__all__ = ["INDEPENDENT", "Recommendation", "eligible", "pareto_front", "reason_to_drop", "recommend"]

#: Smallest gain in speed or size over float32 that makes a candidate useful.
LEAST_GAIN = 0.02

#: Largest 1 - cosine between a text alone and in a batch that counts as independent of the batch.
INDEPENDENT = 1e-6


@dataclass(frozen=True, slots=True)
class Recommendation:
    """`Recommendation`: the chosen candidate and the reason.

    Attributes:
        chosen: name of the candidate, or None to keep float32.
        equals: names of the other candidates within the bounds that are as fast as the fastest one; the chosen one is the
            most accurate of all of these.
        sentence: the recommendation with its reason.
    """

    chosen: str | None
    equals: tuple[str, ...]
    sentence: str


def reason_to_drop(candidate: Candidate) -> str:
    """Return the reason to drop a candidate; empty if it is faster or smaller than float32 on this machine.

    It is faster if the whole range of its throughput is above float32's.
    """
    if candidate.problem:
        return candidate.problem
    speed = None if candidate.speed is None else candidate.speed.throughput_ratio
    faster = speed is not None and speed.low > 1 and speed.median > 1 + LEAST_GAIN
    if faster or candidate.size < 1 - LEAST_GAIN:
        return ""
    return "neither faster nor smaller than float32 on this machine"


def pareto_front(candidates: Sequence[Candidate]) -> list[str]:
    """Return the names of the Pareto front.

    A candidate beats another one if it is at least as accurate, fast and small, and better in one of them. Throughputs that
    cannot be distinguished are equal.
    """
    measured = [
        (candidate, candidate.quality, candidate.speed)
        for candidate in candidates
        if candidate.quality is not None and candidate.speed is not None
    ]
    return [ours[0].name for ours in measured if not any(_beats(theirs, ours) for theirs in measured)]


def _beats(theirs: tuple[Candidate, Quality, Speed], ours: tuple[Candidate, Quality, Speed]) -> bool:
    (them, their_quality, their_speed), (us, our_quality, our_speed) = theirs, ours
    faster = their_speed.throughput_ratio.median - our_speed.throughput_ratio.median
    if same_speed(their_speed, our_speed):
        faster = 0.0
    gains = (their_quality.cosine_mean - our_quality.cosine_mean, faster, us.size - them.size)
    return min(gains) >= 0 and max(gains) > 0


def eligible(candidate: Candidate, min_cosine: float, min_overlap: float) -> bool:
    """Return whether a candidate may be recommended: it is within the bounds and does not depend on the batch."""
    quality = candidate.quality
    if quality is None or candidate.speed is None:
        return False
    near = quality.cosine_min >= min_cosine and quality.overlap >= min_overlap
    return near and quality.batch_cosine >= 1 - INDEPENDENT


def recommend(candidates: Sequence[Candidate], min_cosine: float, min_overlap: float) -> Recommendation:
    """Choose a candidate, and give the reason in a few sentences.

    Of all candidates within the bounds that are as fast as the fastest one, the most accurate one is chosen.

    Args:
        candidates: the useful candidates, without float32.
        min_cosine: smallest cosine with float32 that any text may have.
        min_overlap: smallest share of float32's ten nearest neighbors.
    """
    able = [candidate for candidate in candidates if eligible(candidate, min_cosine, min_overlap)]
    bounds = f"a cosine of at least {min_cosine:g} for every text and {min_overlap:.0%} of the ten nearest neighbors"
    if not able:
        sentence = f"Keep float32: no recipe that is faster or smaller here keeps {bounds}{_nearest(candidates)}."
        return Recommendation(None, (), sentence)
    speeds = {candidate.name: candidate.speed for candidate in able if candidate.speed is not None}
    best = speeds[fastest(speeds)]
    equal = [candidate for candidate in able if same_speed(speeds[candidate.name], best)]
    chosen = max(equal, key=lambda candidate: (_accuracy(candidate), -candidate.size))
    quality = chosen.quality
    assert quality is not None
    figures = (
        f"every text has a cosine of {quality.cosine_min:.4f} or more, and {quality.overlap:.1%} of the ten nearest "
        "neighbors stay"
    )
    sentence = f"Take {chosen.name}: {_gain(chosen, speeds[chosen.name])}, within the bounds ({bounds}): {figures}."
    equals = tuple(candidate.name for candidate in equal if candidate is not chosen)
    return Recommendation(chosen.name, equals, sentence + _explain_equals(chosen, equals))


def _gain(candidate: Candidate, speed: Speed) -> str:
    ratio = speed.throughput_ratio
    gain = (
        f"{ratio.median:.2f} times float32's throughput on this machine ({ratio.low:.2f} to {ratio.high:.2f} in "
        f"{speed.num_rounds} rounds"
    )
    gain += ", so not measurably faster)" if ratio.low <= 1 <= ratio.high else ")"
    gain += f" at {candidate.size:.0%} of its size"
    if candidate.recipe is not None and candidate.recipe.target != "cpu":
        gain += f" when served with --provider {candidate.recipe.target}"
    return gain


def _explain_equals(chosen: Candidate, equals: Sequence[str]) -> str:
    """Return the sentence about the candidates of the same speed; empty if there are none."""
    if not equals:
        return ""
    names = equals[0] if len(equals) == 1 else f"{', '.join(equals[:-1])} and {equals[-1]}"
    return (
        f" Equal in throughput, because the ranges overlap or differ by less than {SAME_SPEED:.0%}: {names}. Of these "
        f"{len(equals) + 1} recipes {chosen.name} has the highest mean cosine, {_accuracy(chosen):.5f}."
    )


def _accuracy(candidate: Candidate) -> float:
    return 0.0 if candidate.quality is None else candidate.quality.cosine_mean


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
