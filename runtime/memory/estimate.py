"""`MemoryEstimate`: memory that batches need on a device, predicted from the graph and corrected by measurements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..artifact.memory_shape import MemoryShape
from ..session.counters import DeviceMetric

__all__ = ["MIB", "MemoryEstimate"]

MIB = 1 << 20

#: Smallest prediction that is compared with a measurement. Below it, the workspaces that a library allocates once would be
#: taken for memory of the batch.
SMALLEST = 64 * MIB

#: Largest ratio of measurement to prediction that is believed. Larger growth comes from other programs.
MOST = 4.0

#: Part of the distance to a lower measurement by which the correction falls each time.
DOWN = 0.05


class MemoryEstimate:
    """`MemoryEstimate`: `MemoryShape` of a graph and its correction for one device.

    The object outlives sessions. The guard that uses it must lock.

    Attributes:
        shape: prediction from the graph.
        factor: correction by which the prediction is multiplied.
        predicted: last predicted bytes of the batches in progress.
        held: bytes of the session's arena for batches at the last reading.
        splits: number of times that a batch was split.
        retries: number of runs that found too little memory and were repeated with a smaller batch, or alone.
        refused: number of single texts that did not fit.
    """

    __slots__ = ("_seen", "_smallest", "factor", "held", "predicted", "refused", "retries", "shape", "splits")

    def __init__(self, shape: MemoryShape, *, factor: float = 1.0, smallest: int = SMALLEST) -> None:
        """Start with the prediction of a shape.

        Args:
            shape: prediction from the graph on the provider.
            factor: first correction.
            smallest: bytes of the smallest prediction that is compared with a measurement.
        """
        self.shape = shape
        self.factor = factor
        self._smallest = smallest
        self._seen = 0.0
        self.predicted = self.held = self.splits = self.retries = self.refused = 0

    def predict(self, lengths: NDArray[np.int64]) -> int:
        """Return the corrected peak bytes of one batch.

        Args:
            lengths: number of tokens of each text, int64, (n,).
        """
        return self.corrected(self.shape.predict(lengths))

    def corrected(self, raw: int) -> int:
        """Return the corrected bytes for a prediction of the shape."""
        return int(raw * self.factor)

    def most(self, raw: int) -> int:
        """Return the largest measurement in bytes that is believed for a prediction."""
        return int(raw * MOST)

    def holds(self, held: int) -> None:
        """Record the bytes of the arena for batches."""
        self.held = held

    def counts(self, raw: int) -> bool:
        """Return whether a prediction is large enough to be compared with measurements."""
        return raw >= self._smallest

    def learn(self, raw: int, before: int, after: int) -> None:
        """Correct the factor by one measurement: upward at once, downward slowly, never below the largest ratio of any batch.

        Args:
            raw: bytes that the shape predicts for the batches that were in progress together.
            before, after: bytes of the arena for batches, before and after them. If the arena grew, `after` is the memory
                that the batches used; otherwise it is an upper bound.
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
                "Predicted bytes of the batches in progress",
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
                "Factor by which the prediction from the graph is multiplied",
                device,
                lambda: self.factor,
                "share",
            ),
            DeviceMetric(
                "fletcher_gpu_batches_split_total",
                "Number of times that a batch was split because of too little memory",
                device,
                lambda: float(self.splits),
                "total",
            ),
            DeviceMetric(
                "fletcher_gpu_out_of_memory_total",
                "Runs that found too little memory and were repeated",
                device,
                lambda: float(self.retries),
                "total",
            ),
            DeviceMetric(
                "fletcher_gpu_texts_refused_total",
                "Single texts that did not fit into the memory",
                device,
                lambda: float(self.refused),
                "total",
            ),
        ]
