"""`Progress`: the callback by which a fetch or an export reports its steps. It draws nothing."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Function that is called at every step, from any thread."""

    def __call__(self, message: str, done: int, total: int | None) -> None:
        """Report a step.

        Args:
            message: description of the step, one line.
            done: bytes done so far.
            total: bytes in all, or None if unknown.
        """


def silent(message: str, done: int, total: int | None) -> None:
    """Report nothing."""
