"""Choosing a provider, a number of workers and a batch size from measurements."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..errors import ProviderError
from ..providers.worker_layout import WorkerLayout
from .measurement import NOT_MEASURED, Measurement, accuracy_of, within

__all__ = ["Choice", "choose"]

#: How much faster a candidate must be to be taken before an earlier one, or more where the rounds spread more: less is noise
#: on a shared machine.
MARGIN = 1.05

#: How much sooner a second session must answer to be worth its copy of the weights.
SOONER = 1.15

#: The gain of a lower bound is reported down to this cosine; below it the vectors are another model's.
WORTH_TELLING = 0.99


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layout that is taken, and the reason.

    Attributes:
        layout: the chosen one.
        reason: one sentence.
        alone: for a batch that runs alone, a layout of the same provider that answers sooner because it is on all processors;
            None where the chosen one is as quick.
    """

    layout: WorkerLayout
    reason: str
    alone: WorkerLayout | None = None


def choose(measurements: Sequence[Measurement], *, min_cosine: float, max_abs: float | None = None) -> Choice:
    """Return the fastest layout that is accurate enough; among equals the first.

    Accuracy is never spent unasked: what a lower bound would buy is said, not taken.

    Args:
        measurements: in the order of preference.
        min_cosine: smallest cosine that the canary's vectors may have with the reference.
        max_abs: largest absolute difference of an element that they may have; None looks at the angle alone.

    Raises:
        ProviderError: none can be used.
    """
    measured = [
        measurement
        for measurement in measurements
        if measurement.tokens_per_s is not None and measurement.min_cosine is not None
    ]
    exact = [measurement for measurement in measured if within(measurement, min_cosine, max_abs)]
    if not exact:
        problems = "; ".join(
            f"{measurement.layout.provider}: {measurement.problem or accuracy_of(measurement)}"
            for measurement in measurements
        )
        bound = "" if max_abs is None else f" and elements off by {max_abs:.0e} at most"
        raise ProviderError(
            f"nothing runs this artifact here with a cosine of at least {min_cosine:g}{bound}: {problems}"
        )
    best = exact[0]
    for measurement in exact[1:]:
        if _is_faster(measurement, best):
            best = measurement
    reason = f"{_name(best.layout)} gave {_speed(best):,.0f} tokens/s at a cosine of {_cosine(best):.6f}"
    others = [measurement for measurement in exact if measurement.layout.provider != best.layout.provider]
    if others:
        rival = max(others, key=_speed)
        ratio = _speed(best) / _speed(rival)
        comparison = (
            f"{ratio:.2f} times less" if ratio >= 1 else f"{1 / ratio:.2f} times that, too little to tell from noise"
        )
        reason += f", {rival.layout.provider} {comparison}"
    faster = [
        measurement
        for measurement in measured
        if measurement not in exact and _cosine(measurement) >= WORTH_TELLING and _is_faster(measurement, best)
    ]
    if faster:
        rival = max(faster, key=_speed)
        allowed = int(_cosine(rival) * 10_000) / 10_000
        reason += (
            f"; {rival.layout.provider} would be {_speed(rival) / _speed(best):.2f} times as fast at "
            f"{_cosine(rival):.6f}: allow it with --min-cosine {allowed:g}"
        )
    unknown = [
        measurement.layout.provider
        for measurement in measurements
        if (measurement.problem or "").startswith(NOT_MEASURED)
    ]
    if unknown:
        reason += f"; there was no time to measure {', '.join(unknown)}: fletcher-serve devices DIR"
    alone = _alone(best, exact)
    if alone is not None:
        reason += f"; a batch that runs alone, on {alone.layout.threads} threads, is done "
        reason += f"{_latency(best) / _latency(alone):.2f} times sooner"
    return Choice(best.layout, reason, None if alone is None else alone.layout)


def _alone(best: Measurement, measurements: Sequence[Measurement]) -> Measurement | None:
    """Return one worker on several threads, if it finishes a short text clearly sooner than the chosen layout."""
    wide = [
        measurement
        for measurement in measurements
        if measurement.layout.provider == best.layout.provider
        and measurement.layout.workers == 1
        and measurement.layout.threads > 1
    ]
    if not wide or best.layout.threads > 1:
        return None
    quickest = min(wide, key=_latency)
    return quickest if SOONER * _latency(quickest) < _latency(best) else None


def _latency(measurement: Measurement) -> float:
    return float("inf") if measurement.latency_ms is None else measurement.latency_ms


def _is_faster(one: Measurement, other: Measurement) -> bool:
    """Return whether one is faster than another by more than the noise."""
    return _speed(one) > max(MARGIN, 1 + one.noise + other.noise) * _speed(other)


def _speed(measurement: Measurement) -> float:
    return measurement.tokens_per_s or 0.0


def _cosine(measurement: Measurement) -> float:
    return -1.0 if measurement.min_cosine is None else measurement.min_cosine


def _name(layout: WorkerLayout) -> str:
    return f"{layout.provider}, {layout.workers} x {layout.threads} threads, batches of {layout.token_budget} tokens,"
