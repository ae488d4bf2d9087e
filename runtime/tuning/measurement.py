"""`Measurement`: speed and accuracy of one layout on this machine."""

from __future__ import annotations

import msgspec

from ..providers.worker_layout import WorkerLayout

__all__ = ["NOT_MEASURED", "Measurement", "accuracy_of", "within"]

#: Start of the problem of a layout that was not measured because of too little time.
NOT_MEASURED = "not measured"


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`Measurement`: speed and accuracy of a layout on this machine.

    Attributes:
        layout: measured layout.
        latency_ms: latency of one short text in milliseconds, the lower quartile of several runs.
        tokens_per_s: tokens per second of texts of different lengths, on all workers together.
        texts_per_s: texts per second of the same texts.
        min_cosine: smallest cosine between the canary's vectors and the reference.
        max_abs: largest absolute difference between their elements.
        noise: spread of the rounds, relative to their median.
        problem: reason why the layout cannot be used, or None. With a reason, the other values are None.
        tries: number of loads that had no time to measure this layout's provider.
        failed: whether the layout failed to run, which may succeed at another time. A missing package or too little time to
            measure is not a failure.
    """

    layout: WorkerLayout
    latency_ms: float | None = None
    tokens_per_s: float | None = None
    texts_per_s: float | None = None
    min_cosine: float | None = None
    max_abs: float | None = None
    noise: float = 0.0
    problem: str | None = None
    failed: bool = False
    tries: int = 0


def within(measurement: Measurement, min_cosine: float, max_abs: float | None) -> bool:
    """Return whether the canary of a measurement is within the bounds; True without a canary."""
    if measurement.min_cosine is None:
        return True
    return measurement.min_cosine >= min_cosine and (max_abs is None or (measurement.max_abs or 0.0) <= max_abs)


def accuracy_of(measurement: Measurement) -> str:
    """Return the accuracy of a measurement as text: `cosine 0.999999, max abs 1.2e-07`."""
    return f"cosine {measurement.min_cosine:.6f}" + (
        "" if measurement.max_abs is None else f", max abs {measurement.max_abs:.1e}"
    )
