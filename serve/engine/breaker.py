"""`Breaker`: a circuit breaker, which rejects at once for a while after several failures in a row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fletcher.runtime.errors import OverloadedError

__all__ = ["Breaker"]


class Breaker:
    """Rejects at once while something is broken, and lets one attempt through from time to time. Thread-safe.

    Attributes:
        failures: failures in a row so far.
    """

    def __init__(
        self, *, failures: int = 5, open_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin closed.

        Args:
            failures: failures in a row that open it.
            open_seconds: seconds for which it then rejects.
            clock: returns seconds.
        """
        self._limit = failures
        self._seconds = open_seconds
        self._clock = clock
        self.failures = 0
        self._opened: float | None = None
        self._lock = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Return whether it rejects now."""
        return self.remaining() > 0

    def remaining(self) -> float:
        """Return the seconds until it lets the next attempt through; 0 if it does now."""
        with self._lock:
            if self._opened is None:
                return 0.0
            return max(0.0, self._opened + self._seconds - self._clock())

    def check(self, name: str) -> None:
        """Reject while it is open.

        Raises:
            OverloadedError: it is open; carries the seconds after which to try again.
        """
        left = self.remaining()
        if left:
            raise OverloadedError(f"{name} has failed {self.failures} times in a row; next try in {left:.1f} s", left)

    def fail(self) -> None:
        """Count a failure. If the attempt that was let through fails, it rejects for another while."""
        with self._lock:
            self.failures += 1
            if self.failures >= self._limit:
                self._opened = self._clock()

    def succeed(self) -> None:
        """Count a success: it closes."""
        with self._lock:
            self.failures = 0
            self._opened = None
