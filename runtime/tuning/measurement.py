"""`Measurement`: speed and accuracy of one layout on this machine."""

from __future__ import annotations

import msgspec

from ..providers.worker_layout import WorkerLayout

__all__ = ["NOT_MEASURED", "Measurement", "accuracy_of", "within"]

#: How the problem begins of what there was no time for.
NOT_MEASURED = "not measured"


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Speed and accuracy of a layout on this machine.

    Attributes:
        layout: which.
        latency_ms: of one short text, milliseconds; the lower quartile of some runs.
        tokens_per_s: of ragged texts, all workers together.
        texts_per_s: the same in texts.
        min_cosine: of its canary's vectors against the reference, the worst.
        max_abs: their largest absolute difference.
        noise: how far the rounds spread, relative to their median.
        problem: why it cannot be used; the figures are then missing.
        failed: whether the problem is that it did not run, which another time it may; a package that is missing, or too
            little time to measure it, is not a failure.
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


def within(measurement: Measurement, min_cosine: float, max_abs: float | None) -> bool:
    """Return whether a measurement's canary is near enough to the reference; a measurement without a canary is."""
    if measurement.min_cosine is None:
        return True
    return measurement.min_cosine >= min_cosine and (max_abs is None or (measurement.max_abs or 0.0) <= max_abs)


def accuracy_of(measurement: Measurement) -> str:
    """Return the text of a measurement's canary for people."""
    return f"cosine {measurement.min_cosine:.6f}" + (
        "" if measurement.max_abs is None else f", max abs {measurement.max_abs:.1e}"
    )
