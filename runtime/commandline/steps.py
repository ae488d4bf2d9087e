"""A fetch's or an export's progress, told by a command's reporter. It knows neither fetches nor exports."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from threading import Lock
from typing import Literal

from fletcher.runtime.commandline.reporter import Progress, Reporter

__all__ = ["Steps"]


class Steps:
    """A library's progress (a message, bytes done, bytes in all) as lines, and as a bar where the size is known."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._stack = ExitStack()
        self._bar: Progress | None = None
        self._message = ""
        self._done = 0
        self._lock = Lock()

    def __call__(self, message: str, done: int, total: int | None) -> None:
        """Takes a step; safe from any thread."""
        with self._lock:
            if message != self._message:
                self._finish()
                self._message = message
                if total is None:
                    self._report.line(message)
            if self._bar is None and total is not None:
                bar: AbstractContextManager[Progress] = self._report.progress(message, total=total, units=("bytes",))
                self._bar = self._stack.enter_context(bar)
            if self._bar is not None:
                self._bar.advance(done - self._done)
                self._done = done

    def _finish(self) -> None:
        self._stack.close()
        self._bar, self._done = None, 0

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        with self._lock:
            self._finish()
        return False
