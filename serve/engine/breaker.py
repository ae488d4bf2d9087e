"""A circuit breaker: after failures in a row it says no at once, for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fletcher.runtime.errors import OverloadedError

__all__ = ["Breaker"]


class Breaker:
    """Says no at once while something is known to be broken, and lets one through from time to time. Thread-safe."""

    def __init__(
        self, *, failures: int = 5, open_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            failures: in a row that open it.
            open_seconds: how long it then says no.
            clock: seconds.
        """
        self._limit = failures
        self._seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._opened: float | None = None
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether it says no now."""
        return self.remaining() > 0

    def remaining(self) -> float:
        """Seconds until it lets the next one through; 0 where it does now."""
        with self._lock:
            if self._opened is None:
                return 0.0
            return max(0.0, self._opened + self._seconds - self._clock())

    def check(self, name: str) -> None:
        """
        Raises:
            OverloadedError: it says no; carries the seconds after which to try again.
        """
        left = self.remaining()
        if left:
            raise OverloadedError(f"{name} has failed {self._failures} times in a row; next try in {left:.1f} s", left)

    def fail(self) -> None:
        """Counts a failure; the one that was let through closes it for another while."""
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._opened = self._clock()

    def succeed(self) -> None:
        """It is there again."""
        with self._lock:
            self._failures = 0
            self._opened = None
