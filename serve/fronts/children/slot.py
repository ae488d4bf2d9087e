"""`Slot`: the place of one child, which is started again when it ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fletcher.runtime.errors import FletcherError, ServiceError

from ..config import ProcessConfig
from .process import ChildProcess, Timing

__all__ = ["Slot"]

logger = logging.getLogger("fletcher.serve.fronts")


class Slot:
    """The place of one child: its process, or the time of the next start. One thread uses it.

    Attributes:
        number: number of the front, from 1; 0 for the engine.
        child: the process; None between an end and the next start.
        start_at: time of the next start, if there is no process.
    """

    def __init__(self, number: int, timing: Timing) -> None:
        self.number = number
        self.child: ChildProcess | None = None
        self.start_at = 0.0
        self._timing = timing
        self._ends = 0

    @property
    def ready(self) -> bool:
        """True if the child works."""
        return self.child is not None and self.child.ready and not self.child.channel.ended

    def start(self, command: Sequence[str], config: ProcessConfig, now: float) -> ChildProcess | None:
        """Start the child.

        Args:
            command: command of children.
            config: configuration of the process.
            now: time of the clock.

        Returns:
            The child; None if the system did not start it, so that it is tried again later.
        """
        try:
            self.child = ChildProcess(command, config)
        except OSError as error:
            logger.error("a process did not start", extra={"fields": {"front": self.number, "reason": str(error)}})
            self._schedule(now)
        return self.child

    def end(self, child: ChildProcess, code: int, now: float, *, again: bool) -> FletcherError | None:
        """Note the end of the child's process.

        Args:
            child: the child.
            code: exit code of the process.
            now: time of the clock.
            again: whether the child is started again.

        Returns:
            The reason for an end before the child was ready; None if it was.
        """
        self.child = None
        stable = child.ready and now - child.ready_since >= self._timing.stable
        self._ends = 0 if stable else self._ends
        self._schedule(now)
        error = None if child.ready else _reason(child, code)
        if again:
            fields: dict[str, object] = {"process": child.name, "exit_code": code}
            fields["starts_again_in"] = round(self.start_at - now, 3)
            if child.ready and child.problem is not None:
                fields["reason"] = f"it {child.problem}"
            elif error is not None:
                fields |= {"error": type(error).__name__, "reason": str(error)}
            logger.error("a process ended", extra={"fields": fields})
        child.close()
        return error

    def _schedule(self, now: float) -> None:
        self._ends += 1
        self.start_at = now + self._timing.delay(self._ends)


def _reason(child: ChildProcess, code: int) -> FletcherError:
    if child.failed is not None:
        return child.failed.rebuild(f"the process {child.name!r}")
    if child.problem is not None:
        return ServiceError(f"the process {child.name!r} {child.problem}; the log has the details")
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return ServiceError(f"the process {child.name!r} {ended} before it was ready; the log has the details")
