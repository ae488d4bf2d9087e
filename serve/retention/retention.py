"""`survey` finds everything that Fletcher has written; `apply` removes what is due and not in use."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from fletcher.runtime.errors import InputError

from .places import PLACES, Folders
from .use import Uses, size_and_age

__all__ = ["Kept", "apply", "read_days", "survey"]

#: Files beside a journal, which SQLite writes.
COMPANIONS = ("-wal", "-shm")


class Kept(msgspec.Struct, frozen=True):
    """One file or folder that Fletcher has written.

    Attributes:
        kind: kind of `PLACES`.
        path: the file or folder.
        bytes: bytes on the disk.
        days: days since its last use.
        keep: days for which its kind is kept; None if a person must remove it.
        state: `kept`; `due` if it is older; `in use` if it is older and in use; `removed`.
    """

    kind: str
    path: str
    bytes: int
    days: float
    keep: float | None
    state: Literal["kept", "due", "in use", "removed"]


def read_days(texts: Sequence[str]) -> dict[str, float | None]:
    """Return the days by kind: those of `PLACES`, changed by texts such as `engines=30` or `downloads=forever`.

    Raises:
        InputError: a text has another form, or names no kind.
    """
    days = {place.kind: place.days for place in PLACES}
    for text in texts:
        kind, equals, value = text.partition("=")
        if kind not in days or not equals:
            raise InputError(f"--keep is {text!r}: write KIND=DAYS or KIND=forever; the kinds are {', '.join(days)}")
        try:
            days[kind] = None if value == "forever" else float(value)
        except ValueError:
            raise InputError(f"--keep is {text!r}: DAYS is a number, or forever") from None
        if (limit := days[kind]) is not None and not limit >= 0:
            raise InputError(f"--keep is {text!r}: DAYS is at least 0")
    return days


def survey(
    folders: Folders,
    days: Mapping[str, float | None],
    reserved: frozenset[Path] = frozenset(),
    now: float | None = None,
) -> Iterator[Kept]:
    """Yield everything that Fletcher has written into some folders.

    Args:
        folders: the folders.
        days: days for which each kind is kept.
        reserved: artifacts of a server's configuration, which are in use.
        now: present time in seconds since 1970. Default: that of the clock.
    """
    uses, now = Uses(reserved), time.time() if now is None else now
    for place in PLACES:
        for path in place.find(folders):
            size, age = size_and_age(path, now)
            keep = days[place.kind]
            state: Literal["kept", "due", "in use"] = "kept"
            if keep is not None and age > keep:
                state = "in use" if uses.uses(path) else "due"
            yield Kept(place.kind, str(path), size, age, keep, state)


def apply(found: Sequence[Kept], reserved: frozenset[Path] = frozenset()) -> Iterator[Kept]:
    """Remove what is due. What came into use since the survey stays.

    Args:
        found: result of `survey`.
        reserved: as for `survey`.

    Yields:
        The same with the state afterwards.

    Raises:
        OSError: something cannot be removed.
    """
    uses = Uses(reserved)
    for each in found:
        if each.state != "due":
            yield each
        elif uses.uses(Path(each.path)):
            yield msgspec.structs.replace(each, state="in use")
        else:
            _remove(Path(each.path))
            yield msgspec.structs.replace(each, state="removed")


def _remove(path: Path) -> None:
    """Remove a file or a folder. It is renamed first, so that no process finds half of it."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.removed.", dir=path.parent))
    for name in (path.name, *(f"{path.name}{end}" for end in COMPANIONS if path.suffix == ".journal")):
        source = path.with_name(name)
        if source.exists() or source.is_symlink():
            source.rename(aside / name)
    shutil.rmtree(aside)
