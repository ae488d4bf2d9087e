"""`Readiness`: whether the canary passed on the real session, no batch has failed since, and the device answers."""

from __future__ import annotations

import threading
import time

from fletcher.runtime.errors import FletcherError

from ..engine.answering import AnsweringEngine

__all__ = ["Readiness"]

#: Seconds between two canary runs after a failure: probes come often, and the canary costs compute.
RECHECK_SECONDS = 5.0


class Readiness:
    """Checks the canary again after every failure. Safe to use from any thread; a call can take as long as a canary run."""

    def __init__(self, engine: AnsweringEngine) -> None:
        """Begin ready.

        Args:
            engine: an engine whose backend passed its canary when it was loaded.
        """
        self._engine = engine
        self._lock = threading.Lock()
        self._failures = engine.failures
        self._checked = 0.0
        self._reason = ""

    @property
    def settled(self) -> bool:
        """Return whether `reason` answers at once."""
        return self._engine.stopping or bool(self._engine.problem) or not self._due()

    def reason(self) -> str:
        """Return the reason why the server is not ready; empty if it is."""
        if self._engine.stopping:
            return "the server is stopping"
        if problem := self._engine.problem:
            return problem
        with self._lock:
            if self._due():
                self._failures = self._engine.failures
                self._reason = self._check()
                self._checked = time.monotonic()
            return self._reason

    def _due(self) -> bool:
        if self._reason:
            return time.monotonic() - self._checked > RECHECK_SECONDS
        return self._failures != self._engine.failures

    def _check(self) -> str:
        try:
            canary = self._engine.backend.check_canary()
        except FletcherError as error:
            return f"the canary could not be computed ({type(error).__name__})"
        return "" if canary.passed else f"the canary does not pass: {canary.reason}"
