"""`DrainRate`: moving average of the tokens per second that leave the queue, to estimate the wait of a new request."""

from __future__ import annotations

from typing import Final

__all__ = ["DrainRate"]

#: Length of a sample in seconds, during which the queue must not be empty. It covers several batches of most models.
SAMPLE_SECONDS: Final = 0.25

#: Weight of the newest sample in the average.
NEWEST_SAMPLE: Final = 0.4

#: Weight of the newest full batch in the average of batches.
NEWEST_BATCH: Final = 0.2


class DrainRate:
    """Tokens per second that leave a queue while it is not empty. The rate includes pauses between batches and other load.

    Not safe to use from several threads at once: the admission's lock guards it.

    Attributes:
        value: rate of the queue, or None before the first sample.
        sampling: True during a sample.
    """

    def __init__(self, workers: int = 1) -> None:
        """Start without a sample.

        Args:
            workers: number of batches that are computed at once.
        """
        self.value: float | None = None
        self.sampling = False
        self._workers = workers
        self._by_batch: float | None = None
        self._since = 0.0
        self._tokens = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Return the rate of the queue; before the first sample, the rate of full batches; before the first batch, None."""
        return self.value or self._by_batch

    def count_batch(self, tokens: int, seconds: float) -> None:
        """Count a full batch. Small batches do not measure the rate of a queue, so the caller leaves them out.

        Args:
            tokens: number of tokens in the batch.
            seconds: time to compute it.
        """
        speed = self._workers * tokens / max(seconds, 1e-9)
        before = self._by_batch
        self._by_batch = speed if before is None else before + NEWEST_BATCH * (speed - before)

    def count_drained(self, tokens: int, now: float, *, waiting: bool) -> None:
        """Count tokens that left the queue with one batch.

        Args:
            tokens: number of tokens in the batch.
            now: time in seconds, of any monotonic clock.
            waiting: False if the queue is empty now. That ends the sample, because later tokens did not wait in the queue.
        """
        if not self.sampling:
            self._since, self.sampling = now, True  # the sample starts after this batch
        else:
            self._tokens += tokens
            seconds = now - self._since
            if seconds >= SAMPLE_SECONDS:
                sample = self._tokens / seconds
                self.value = sample if self.value is None else self.value + NEWEST_SAMPLE * (sample - self.value)
                self._since, self._tokens = now, 0
        if not waiting:
            self.sampling, self._tokens = False, 0
