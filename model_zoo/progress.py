"""`Progress`: the interface through which a long operation reports messages and counts. It draws nothing.

A function that takes long has a parameter `progress: Progress = SILENT`. A command passes its
`runtime.commandline.reporter.Reporter`, which prints lines and draws bars.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

__all__ = ["SILENT", "Counter", "Progress"]


class Counter(Protocol):
    """`Counter`: counts the finished work of one operation."""

    def advance(self, *amounts: int, total: int | None = None) -> None:
        """Add the work that was finished since the last call. Any thread may call it.

        Args:
            *amounts: one amount per unit, in the order of the units that `Progress.count` received.
            total: new total of the first unit, for an operation whose size becomes known late; None keeps the old one.
        """


class Progress(Protocol):
    """`Progress`: receives the messages and counts of an operation. Any thread may call it."""

    def line(self, text: str) -> None:
        """Report a step that begins or an event, in one line."""

    def warn(self, text: str) -> None:
        """Report something that the user should know and that does not stop the operation."""

    def count(
        self,
        label: str,
        *,
        total: int | None = None,
        done: int = 0,
        units: Sequence[str] = ("steps",),
        note: Callable[[], str] = lambda: "",
    ) -> AbstractContextManager[Counter]:
        """Open a counter, which is shown until its context ends.

        Args:
            label: name of the operation ("embedding").
            total: expected amount of the first unit; None if it is unknown.
            done: amount of the first unit that an earlier run finished, which does not count for the rate.
            units: names of the counted units, each shown with its rate; "bytes" is shown in MB.
            note: returns a text to show beside the counts; called whenever they are shown.
        """


class _Silent:
    """`_Silent`: progress and counter that report nothing, except warnings, which become Python warnings."""

    def line(self, text: str) -> None:
        """Ignore the text."""

    def warn(self, text: str) -> None:
        """Issue a Python warning."""
        warnings.warn(text, RuntimeWarning, stacklevel=3)

    def count(
        self,
        label: str,
        *,
        total: int | None = None,
        done: int = 0,
        units: Sequence[str] = ("steps",),
        note: Callable[[], str] = lambda: "",
    ) -> AbstractContextManager[Counter]:
        """Return a counter that ignores its amounts."""
        return self

    def advance(self, *amounts: int, total: int | None = None) -> None:
        """Ignore the amounts."""

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


#: Default of every `progress` parameter.
SILENT: Final = _Silent()
