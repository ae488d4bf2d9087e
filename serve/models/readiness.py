"""`Readiness`: a model's readiness: its canary passed, no batch has failed since then, its device answers, its files are
those that were loaded."""

from __future__ import annotations

import logging
import threading
import time

from fletcher.runtime.errors import FletcherError

from ..engine.answering import AnsweringEngine

__all__ = ["Readiness"]

logger = logging.getLogger("fletcher.serve.models.readiness")

#: Seconds between two canary runs after a failed one. Probes are frequent, and the canary takes compute time.
RECHECK_SECONDS = 5.0

#: Seconds between two checks that the artifact's files did not change. A check takes microseconds unless one did.
FILES_SECONDS = 5.0

#: Seconds after which a check of the files counts as hanging.
LATE_SECONDS = 2.0


class Readiness:
    """Readiness of one model. It checks the canary again after a batch failed. Safe to use from any thread.

    One caller at a time checks. The others do not wait for it, so a folder that does not answer holds one thread.
    """

    def __init__(self, engine: AnsweringEngine) -> None:
        """Start as ready.

        Args:
            engine: an engine whose backend passed its canary when it was loaded.
        """
        self._engine = engine
        self._lock = threading.Lock()
        self._failures = engine.failures
        self._checked = 0.0
        self._reason = ""
        self._distance: float | None = None
        self._files_checked = time.monotonic()
        self._files_reason = ""
        self._meanwhile = ""
        self._begun = 0.0

    @property
    def settled(self) -> bool:
        """Return True if `reason` returns at once, without a canary run."""
        if self._engine.stopping or self._engine.problem or self._lock.locked():
            return True
        return not (self._due() or self._files_due())

    def reason(self) -> str:
        """Return the reason why the model is not ready; empty if it is ready. It can take as long as a canary run."""
        if self._engine.stopping:
            return "the server is stopping"
        if problem := self._engine.problem:
            return problem
        if not self._lock.acquire(blocking=False):
            reason = self._files_reason or self._reason or self._meanwhile
            if not reason and time.monotonic() - self._begun > LATE_SECONDS:
                return "the artifact's folder does not answer"
            return reason
        try:
            self._begun = time.monotonic()
            if self._due():
                self._meanwhile = "a batch failed, and the canary is being checked"
                self._failures = self._engine.failures
                self._reason = self._check()
                self._checked = self._begun = time.monotonic()
                self._meanwhile = ""
            if self._files_due():
                self._check_files()
            return self._files_reason or self._reason
        finally:
            self._meanwhile = ""
            self._lock.release()

    @property
    def known_reason(self) -> str:
        """Return the reason that `reason` found last, without a check; empty if there was none."""
        return self._engine.problem or self._files_reason or self._reason

    @property
    def distance(self) -> float | None:
        """Return the largest difference of an element between the canary's latest run and its reference.

        None if the model does not report it.
        """
        if self._distance is not None:
            return self._distance
        bounds = self._engine.backend.info.bounds
        return None if bounds is None else bounds.session.measured_abs

    def _due(self) -> bool:
        if self._reason:
            return time.monotonic() - self._checked > RECHECK_SECONDS
        return self._failures != self._engine.failures

    def _files_due(self) -> bool:
        return time.monotonic() - self._files_checked > FILES_SECONDS

    def _check_files(self) -> None:
        reason = self._engine.backend.changed_files()
        if reason and reason != self._files_reason:
            logger.error("an artifact was changed", extra={"fields": {"reason": reason}})
        self._files_reason = reason
        self._files_checked = time.monotonic()

    def _check(self) -> str:
        try:
            canary = self._engine.backend.check_canary()
        except FletcherError as error:
            return f"the canary could not be computed ({type(error).__name__})"
        self._distance = canary.max_abs
        return "" if canary.passed else f"the canary does not pass: {canary.reason}"
