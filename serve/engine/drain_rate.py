"""`DrainRate`: moving average of the tokens per second that leave the queue, which estimates the wait of a new request."""

from __future__ import annotations

from typing import Final

__all__ = ["DrainRate"]

#: Seconds of an uninterrupted queue that make a sample: several batches of most models.
SAMPLE_SECONDS: Final = 0.25

#: Weight of the newest sample in the average.
NEWEST_SAMPLE: Final = 0.4

#: Weight of the newest full batch in the average of batches.
NEWEST_BATCH: Final = 0.2


class DrainRate:
    """Tokens per second that leave a queue while it is never empty, with the pauses between batches and all other load.

    Not safe to use from several threads at once: the admission's lock guards it.

    Attributes:
        value: the queue's own rate, or None before the first sample.
        sampling: whether a sample is under way.
    """

    def __init__(self, workers: int = 1) -> None:
        """Begin without a sample.

        Args:
            workers: batches that are computed at once.
        """
        self.value: float | None = None
        self.sampling = False
        self._workers = workers
        self._by_batch: float | None = None
        self._since = 0.0
        self._tokens = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Return the queue's own rate; before there is one, the rate of full batches; None before the first batch."""
        return self.value or self._by_batch

    def count_batch(self, tokens: int, seconds: float) -> None:
        """Count a full batch: small batches say nothing about a queue.

        Args:
            tokens: tokens of the batch.
            seconds: time that it took to compute.
        """
        speed = self._workers * tokens / max(seconds, 1e-9)
        before = self._by_batch
        self._by_batch = speed if before is None else before + NEWEST_BATCH * (speed - before)

    def count_drained(self, tokens: int, now: float, *, waiting: bool) -> None:
        """Count tokens that left the queue with one batch.

        Args:
            tokens: tokens of the batch.
            now: seconds, of any clock that only goes forward.
            waiting: whether something is left; what comes after an empty queue was not waiting for its turn.
        """
        if not self.sampling:
            self._since, self.sampling = now, True  # this batch came before the sample
        else:
            self._tokens += tokens
            seconds = now - self._since
            if seconds >= SAMPLE_SECONDS:
                sample = self._tokens / seconds
                self.value = sample if self.value is None else self.value + NEWEST_SAMPLE * (sample - self.value)
                self._since, self._tokens = now, 0
        if not waiting:
            self.sampling, self._tokens = False, 0
