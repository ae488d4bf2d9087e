"""`Throughput`: measured speed of one device."""

from __future__ import annotations

__all__ = ["Throughput"]

#: Factor by which the weight of a measurement falls with each later batch: the weight is halved after 7 batches.
KEPT = 0.9

#: Seconds without a batch after which a measurement is discarded. Otherwise a device that was slow for a moment would get no
#: batch that shows its recovery.
FORGOTTEN_AFTER = 1.0

#: Number of batches of a new session before its measurement is used: the first ones load kernels and allocate buffers.
TRUSTED_AFTER = 4


class Throughput:
    """`Throughput`: tokens per second of a device whose batches overlap. The owner of the object must lock.

    The class measures the time between the ends of batches, not the duration of each batch: each of two batches that overlap
    takes twice the time that the device spends on it. The first batch of a session loads kernels and is not counted.

    Attributes:
        busy_seconds: total seconds with at least one batch in progress.
        batch_seconds: seconds of the last batch, with its wait for other batches on the device.
    """

    __slots__ = ("_count", "_mark", "_seconds", "_texts", "_tokens", "batch_seconds", "busy_seconds")

    def __init__(self) -> None:
        self.busy_seconds = self.batch_seconds = 0.0
        self._mark = 0.0
        self.forget()

    def forget(self) -> None:
        """Discard all measurements, for a session that was just opened."""
        self._count = -1  # the first batch is not counted
        self._reset()

    def _reset(self) -> None:
        self._tokens = self._texts = self._seconds = 0.0

    @property
    def tokens(self) -> float | None:
        """Tokens per second, or None without a measurement."""
        if self._count < TRUSTED_AFTER or not self._tokens or not self._seconds:
            return None
        return self._tokens / self._seconds

    @property
    def texts(self) -> float:
        """Texts per second, or 0 without a measurement."""
        return self._texts / self._seconds if self._seconds else 0.0

    def is_old(self, now: float) -> bool:
        """Return whether the last batch started or ended more than `FORGOTTEN_AFTER` seconds ago."""
        return now - self._mark > FORGOTTEN_AFTER

    def begin(self, now: float) -> None:
        """Record the start of a batch on an idle device.

        Args:
            now: seconds of a monotonic clock.
        """
        if self.is_old(now):
            self._reset()
        self._mark = now

    def end(self, now: float, started: float, tokens: int, texts: int) -> None:
        """Record the end of a batch.

        Args:
            now, started: end and start of the batch, in seconds of the same clock.
            tokens, texts: numbers of tokens and texts in the batch; 0 for a batch that failed, whose time counts too.
        """
        seconds = now - self._mark
        self._mark = now
        self.busy_seconds += seconds
        self.batch_seconds = now - started
        self._count += 1
        if not self._count:
            return
        self._tokens = KEPT * self._tokens + tokens
        self._texts = KEPT * self._texts + texts
        self._seconds = KEPT * self._seconds + seconds
