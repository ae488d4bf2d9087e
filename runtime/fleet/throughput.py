"""`Throughput`: speed of one device, measured while it computes."""

from __future__ import annotations

__all__ = ["Throughput"]

#: What the past counts for, a batch later: half of it is gone after 7 batches.
KEPT = 0.9

#: Seconds without a batch after which a measurement is forgotten. A device that was slow for a moment would otherwise never
#: be given the batch that shows that it recovered.
FORGOTTEN_AFTER = 1.0

#: Batches of a new session that must be measured before one device is preferred to another for it: the first few load kernels
#: and find their shapes' buffers.
TRUSTED_AFTER = 4


class Throughput:
    """Tokens per second of a device whose batches overlap. Its owner locks.

    Measured is the time between the ends of batches, not each batch's own: of two batches that overlap, each takes twice as
    long as the device does. A session's first batch loads kernels and is not counted.

    Attributes:
        busy_seconds: for which at least one batch was under way, in all.
        batch_seconds: how long the last batch took, its wait for another one on the same device included.
    """

    __slots__ = ("_count", "_mark", "_seconds", "_texts", "_tokens", "batch_seconds", "busy_seconds")

    def __init__(self) -> None:
        self.busy_seconds = self.batch_seconds = 0.0
        self._mark = 0.0
        self.forget()

    def forget(self) -> None:
        """Forget all measurements, as for a session that was just opened."""
        self._count = -1  # the first one is not counted
        self._reset()

    def _reset(self) -> None:
        self._tokens = self._texts = self._seconds = 0.0

    @property
    def tokens(self) -> float | None:
        """Tokens per second, or None if nothing was measured yet."""
        if self._count < TRUSTED_AFTER or not self._tokens or not self._seconds:
            return None
        return self._tokens / self._seconds

    @property
    def texts(self) -> float:
        """Texts per second; 0 if nothing was measured yet."""
        return self._texts / self._seconds if self._seconds else 0.0

    def is_old(self, now: float) -> bool:
        """Return whether the last batch ended so long ago that the measurement is out of date."""
        return now - self._mark > FORGOTTEN_AFTER

    def begin(self, now: float) -> None:
        """Note that a batch begins on a device that had none under way.

        Args:
            now: seconds of a clock that never goes back.
        """
        if self.is_old(now):
            self._reset()
        self._mark = now

    def end(self, now: float, started: float, tokens: int, texts: int) -> None:
        """Note that a batch ended.

        Args:
            now, started: seconds of the clock.
            tokens, texts: what it held; 0 of a batch that failed, which took its time all the same.
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
