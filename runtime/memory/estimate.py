"""`MemoryEstimate`: memory that batches need on a device, predicted by the graph's shape and corrected by measurements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..artifact.memory_shape import MemoryShape
from ..session.counters import DeviceMetric

__all__ = ["MIB", "MemoryEstimate"]

MIB = 1 << 20

#: Measurements of less say little: a library's workspaces, which are taken once, would pass for what a batch needs.
SMALLEST = 64 * MIB

#: Growth beyond this many times what was predicted is somebody else's.
MOST = 4.0

#: How much nearer the correction comes to a lower measurement each time.
DOWN = 0.05


class MemoryEstimate:
    """`MemoryShape` of a graph and its correction for one device. It outlives sessions; the guard that uses it locks.

    Attributes:
        shape: what the graph says.
        factor: what that is multiplied by.
        predicted: bytes that batches under way were last predicted to need.
        held: bytes that the session's arena had for batches when it was last looked at.
        splits: batches that were computed in parts.
        retries: runs that found no memory and were tried again smaller, or alone.
        refused: texts that did not fit alone.
    """

    __slots__ = ("_seen", "_smallest", "factor", "held", "predicted", "refused", "retries", "shape", "splits")

    def __init__(self, shape: MemoryShape, *, factor: float = 1.0, smallest: int = SMALLEST) -> None:
        """Begin with the prediction of a shape.

        Args:
            shape: what the graph says, on the provider that runs it.
            factor: to begin with.
            smallest: bytes of the smallest prediction that is compared with what is measured.
        """
        self.shape = shape
        self.factor = factor
        self._smallest = smallest
        self._seen = 0.0
        self.predicted = self.held = self.splits = self.retries = self.refused = 0

    def predict(self, lengths: NDArray[np.int64]) -> int:
        """Return the bytes of one batch at its peak, corrected.

        Args:
            lengths: tokens of each text, int64, (n,).
        """
        return self.corrected(self.shape.predict(lengths))

    def corrected(self, raw: int) -> int:
        """Return the corrected bytes of a prediction of the shape."""
        return int(raw * self.factor)

    def most(self, raw: int) -> int:
        """Return the largest measurement that is believed for a prediction, in bytes."""
        return int(raw * MOST)

    def holds(self, held: int) -> None:
        """Note the bytes that the arena has for batches."""
        self.held = held

    def counts(self, raw: int) -> bool:
        """Return whether a prediction is large enough to be compared with measurements."""
        return raw >= self._smallest

    def learn(self, raw: int, before: int, after: int) -> None:
        """Correct by one measurement: at once upward, slowly downward, and never below the most that any batch took.

        Args:
            raw: bytes that the shape predicts of the batches that were under way together.
            before, after: bytes that the arena had for them. Where it grew, that is what they took; where it did not, they
                took that at most.
        """
        if not self.counts(raw):
            return
        ratio = min(after / raw, MOST)
        if after > before:
            self._seen = max(self._seen, ratio)
        lower = max(self._seen, ratio)
        if lower > self.factor and after > before:
            self.factor = lower
        elif lower < self.factor:
            self.factor -= DOWN * (self.factor - lower)

    def metrics(self, device: str) -> list[DeviceMetric]:
        """Return the metrics of a device."""
        return [
            DeviceMetric(
                "fletcher_gpu_memory_predicted_bytes",
                "Bytes that batches under way were predicted to need",
                device,
                lambda: float(self.predicted),
                "amount",
            ),
            DeviceMetric(
                "fletcher_gpu_memory_measured_bytes",
                "Bytes that the session holds for batches",
                device,
                lambda: float(self.held),
                "amount",
            ),
            DeviceMetric(
                "fletcher_gpu_memory_correction",
                "What the graph's own prediction is multiplied by",
                device,
                lambda: self.factor,
                "share",
            ),
            DeviceMetric(
                "fletcher_gpu_batches_split_total",
                "Batches computed in parts for want of memory",
                device,
                lambda: float(self.splits),
                "total",
            ),
            DeviceMetric(
                "fletcher_gpu_out_of_memory_total",
                "Runs that found no memory and were tried again",
                device,
                lambda: float(self.retries),
                "total",
            ),
            DeviceMetric(
                "fletcher_gpu_texts_refused_total",
                "Texts that did not fit alone",
                device,
                lambda: float(self.refused),
                "total",
            ),
        ]
