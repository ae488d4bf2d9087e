"""How fast the queue empties: what a newcomer's wait depends on, with whatever lies between batches, and the other load."""

from __future__ import annotations

from typing import Final

__all__ = ["DrainRate"]

#: Seconds of an uninterrupted queue that make a sample: several batches of most models.
SAMPLE_SECONDS: Final = 0.25

#: How much of the rate the newest sample is.
NEWEST: Final = 0.4


class DrainRate:
    """Tokens a second that leave a queue while it is never empty. Not safe to use from several threads.

    Attributes:
        value: the rate, or None before the first sample.
    """

    def __init__(self) -> None:
        self.value: float | None = None
        self._since: float | None = None
        self._tokens = 0

    def took(self, tokens: int, now: float, *, waiting: bool) -> None:
        """Notes that a batch left.

        Args:
            tokens: its size.
            now: seconds, of any clock that only goes forward.
            waiting: whether something is left; what comes after an empty queue was not waiting for its turn.
        """
        if self._since is None:
            self._since = now  # this batch is what came before the sample
        else:
            self._tokens += tokens
            seconds = now - self._since
            if seconds >= SAMPLE_SECONDS:
                sample = self._tokens / seconds
                self.value = sample if self.value is None else self.value + NEWEST * (sample - self.value)
                self._since, self._tokens = now, 0
        if not waiting:
            self._since, self._tokens = None, 0
