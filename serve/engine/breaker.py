"""`Breaker`: circuit breaker. After several failures in a row, it rejects attempts at once for some seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fletcher.runtime.errors import OverloadedError

__all__ = ["Breaker"]


class Breaker:
    """Circuit breaker. While it is open, it rejects attempts; after some seconds it allows the next one. Thread-safe.

    Attributes:
        failures: number of failures in a row so far.
    """

    def __init__(
        self, *, failures: int = 5, open_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start closed.

        Args:
            failures: number of failures in a row that open it.
            open_seconds: seconds for which it then rejects attempts.
            clock: returns the present time in seconds.
        """
        self._limit = failures
        self._seconds = open_seconds
        self._clock = clock
        self.failures = 0
        self._opened: float | None = None
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Return True if it rejects attempts now."""
        return self.remaining() > 0

    def remaining(self) -> float:
        """Return the seconds until it allows the next attempt; 0 if it allows one now."""
        with self._lock:
            if self._opened is None:
                return 0.0
            return max(0.0, self._opened + self._seconds - self._clock())

    def check(self, name: str) -> None:
        """Reject an attempt while it is open.

        Args:
            name: name of the part that fails, for the error.

        Raises:
            OverloadedError: it is open; the error has the seconds after which to try again.
        """
        left = self.remaining()
        if left:
            raise OverloadedError(f"{name} has failed {self.failures} times in a row; try again in {left:.1f} s", left)

    def fail(self) -> None:
        """Count a failure. If an attempt fails after the open time, it opens again for the same time."""
        with self._lock:
            self.failures += 1
            if self.failures >= self._limit:
                self._opened = self._clock()

    def succeed(self) -> None:
        """Count a success, and close."""
        with self._lock:
            self.failures = 0
            self._opened = None
