"""`IgnoredKeys`: keys and files that a user declares harmless with `--ignore-key`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fletcher.runtime.errors import InputError

__all__ = ["IgnoredKeys"]


class IgnoredKeys:
    """Names of keys and files that a user declares harmless, and those of them that a check would have refused.

    Each check that refuses an unknown key or file gives its names to `refused` first, so that all of them can be ignored, and
    a name that no check asks about is a mistake of the user's.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(names)
        self._met: set[str] = set()

    @property
    def met(self) -> tuple[str, ...]:
        """Ignored names that decided whether the checkpoint is refused, sorted."""
        return tuple(sorted(self._met))

    def refused(self, names: Iterable[str]) -> list[str]:
        """Return the names that remain refused, sorted; the others are recorded as met."""
        names = set(names)
        self._met |= names & self._names
        return sorted(names - self._names)

    def check_met(self, folder: Path) -> None:
        """Refuse names that decided nothing.

        Raises:
            InputError: a name is not in the checkpoint, or Fletcher knows it: it then needs no `--ignore-key`.
        """
        if unmet := sorted(self._names - self._met):
            raise InputError(
                f"--ignore-key {unmet[0]}: {folder} is not refused for a key or a file of that name. Either it has none, or "
                "Fletcher knows what it means: leave the option out"
            )
