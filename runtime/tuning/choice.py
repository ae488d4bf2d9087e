"""Choice of a provider, a number of workers and a batch size from measurements."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..errors import ProviderError
from ..providers.worker_layout import WorkerLayout
from .measurement import NOT_MEASURED, Measurement, accuracy_of, within

__all__ = ["Choice", "choose"]

#: Smallest ratio of speeds at which a candidate replaces an earlier one; smaller ratios are noise on a shared machine. If the
#: rounds differ more, the ratio must be larger.
MARGIN = 1.05

#: Smallest ratio of latencies at which a second session is worth its copy of the weights.
SOONER = 1.15

#: Smallest cosine at which a faster, less exact provider is mentioned. Vectors below it differ too much to be useful.
WORTH_TELLING = 0.99


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Choice`: chosen layout, and the reason.

    Attributes:
        layout: chosen layout.
        reason: reason as one sentence.
        alone: layout of the same provider for a batch that runs alone, with a lower latency because it uses several threads;
            None if the chosen layout is about as fast.
    """

    layout: WorkerLayout
    reason: str
    alone: WorkerLayout | None = None


def choose(measurements: Sequence[Measurement], *, min_cosine: float, max_abs: float | None = None) -> Choice:
    """Return the fastest layout that is accurate enough; of equally fast layouts, the first.

    A less accurate layout is never chosen; the reason mentions a faster one that a lower bound would allow.

    Args:
        measurements: measurements in the order of preference.
        min_cosine: smallest allowed cosine between the canary's vectors and the reference.
        max_abs: largest allowed absolute difference of an element; None checks only the cosine.

    Raises:
        ProviderError: no layout is accurate enough, or none runs.
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
        bound = "" if max_abs is None else f" and an absolute difference of at most {max_abs:.0e}"
        raise ProviderError(
            f"no provider runs this artifact here with a cosine of at least {min_cosine:g}{bound}: {problems}"
        )
    best = exact[0]
    for measurement in exact[1:]:
        if _is_faster(measurement, best):
            best = measurement
    reason = f"{_name(best.layout)} reached {_speed(best):,.0f} tokens/s at a cosine of {_cosine(best):.6f}"
    others = [measurement for measurement in exact if measurement.layout.provider != best.layout.provider]
    if others:
        rival = max(others, key=_speed)
        ratio = _speed(best) / _speed(rival)
        comparison = (
            f"was {ratio:.2f} times slower"
            if ratio >= 1
            else f"was {1 / ratio:.2f} times faster, which is not more than noise"
        )
        reason += f", {rival.layout.provider} {comparison}"
    faster = [
        measurement
        for measurement in measured
        if measurement not in exact and _cosine(measurement) >= WORTH_TELLING and _is_faster(measurement, best)
    ]
    if faster:
        rival = max(faster, key=_speed)
        lower_bound = int(_cosine(rival) * 10_000) / 10_000
        reason += (
            f"; {rival.layout.provider} would be {_speed(rival) / _speed(best):.2f} times as fast at "
            f"{_cosine(rival):.6f}: allow it with --min-cosine {lower_bound:g}"
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
        reason += f"; a batch that runs alone, on {alone.layout.threads} threads, is computed "
        reason += f"{_latency(best) / _latency(alone):.2f} times faster"
    return Choice(best.layout, reason, None if alone is None else alone.layout)


def _alone(best: Measurement, measurements: Sequence[Measurement]) -> Measurement | None:
    """Return a layout of one worker with several threads, if its latency is much lower than that of the chosen layout."""
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
    """Return whether a layout is faster than another by more than the noise."""
    return _speed(one) > max(MARGIN, 1 + one.noise + other.noise) * _speed(other)


def _speed(measurement: Measurement) -> float:
    return measurement.tokens_per_s or 0.0


def _cosine(measurement: Measurement) -> float:
    return -1.0 if measurement.min_cosine is None else measurement.min_cosine


def _name(layout: WorkerLayout) -> str:
    return f"{layout.provider}, {layout.workers} x {layout.threads} threads, batches of {layout.token_budget} tokens,"
