"""How a fetch tells what it is doing. It draws nothing."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called at every step of a fetch, from any thread."""

    def __call__(self, message: str, done: int, total: int | None) -> None:
        """Takes a step.

        Args:
            message: what is being done, one line.
            done: bytes done so far.
            total: bytes in all, or None where that is not known.
        """


def silent(message: str, done: int, total: int | None) -> None:
    """Says nothing."""
