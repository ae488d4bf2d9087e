"""Completion of a stored measurement: providers that an earlier load had no time for are measured by a later one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from .measurement import NOT_MEASURED, Measurement

__all__ = ["MOST_TRIES", "count_tries", "join", "unmeasured"]

#: Number of loads that try to measure a provider. A model that is too slow for them is measured by `fletcher-serve devices`.
MOST_TRIES: Final = 3


def unmeasured(measurements: Sequence[Measurement]) -> list[str]:
    """Return the providers that the next load should measure, in order; none if no yardstick was measured."""
    if not any(one.tokens_per_s for one in measurements):
        return []
    return [
        one.layout.provider
        for one in measurements
        if (one.problem or "").startswith(NOT_MEASURED) and one.tries < MOST_TRIES
    ]


def count_tries(measurements: Sequence[Measurement], earlier: Sequence[Measurement] = ()) -> list[Measurement]:
    """Return measurements that know how many loads had no time for a provider.

    Args:
        measurements: measurements of a load.
        earlier: stored measurements of earlier loads.
    """
    tries = {one.layout.provider: one.tries for one in earlier}
    return [
        msgspec.structs.replace(one, tries=tries.get(one.layout.provider, 0) + 1)
        if (one.problem or "").startswith(NOT_MEASURED)
        else one
        for one in measurements
    ]


def join(earlier: Sequence[Measurement], later: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements of two loads as one list.

    The machine may have been busier at one of them. Both measured the default layout of the first provider, so the speeds of
    the later one are multiplied by the ratio of its two speeds.

    Args:
        earlier: stored measurements.
        later: measurements of the first provider and of those that were missing.
    """
    yardstick = next(one for one in earlier if one.tokens_per_s)
    same = next((one for one in later if one.layout == yardstick.layout and one.tokens_per_s), None)
    if same is None:
        return count_tries(list(earlier), earlier)
    ratio = (yardstick.tokens_per_s or 0.0) / (same.tokens_per_s or 1.0)
    fresh = count_tries(
        [_scaled(one, ratio) for one in later if one.layout.provider != yardstick.layout.provider], earlier
    )
    replaced = {one.layout.provider for one in fresh}
    return [*(one for one in earlier if one.layout.provider not in replaced), *fresh]


def _scaled(measurement: Measurement, ratio: float) -> Measurement:
    """Return a measurement with its speed multiplied."""

    def times(value: float | None, factor: float) -> float | None:
        return None if value is None else value * factor

    return msgspec.structs.replace(
        measurement,
        tokens_per_s=times(measurement.tokens_per_s, ratio),
        texts_per_s=times(measurement.texts_per_s, ratio),
        latency_ms=times(measurement.latency_ms, 1 / ratio),
    )
