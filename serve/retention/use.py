"""Detection of what is in use: files that processes hold, have open or have mapped, and journals of running jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from fletcher.runtime.artifact.holding import is_held
from fletcher.runtime.remote.locks import exclusive

__all__ = ["Uses", "size_and_age"]


class Uses:
    """Files that processes of this machine use, as of the time of the scan."""

    def __init__(self, reserved: frozenset[Path] = frozenset()) -> None:
        """Scan the processes.

        Args:
            reserved: paths that are in use even if no process has them open: the artifacts of a server's configuration.
        """
        self._reserved = frozenset(path.resolve() for path in reserved)
        self._open = frozenset(_open_files())

    def uses(self, path: Path) -> bool:
        """Return whether something uses a file, or a folder or a file in it."""
        real = path.resolve()
        if any(each == real or real in each.parents for each in (*self._reserved, *self._open)):
            return True
        if path.suffix == ".journal":
            return _is_written(path)
        if (lock := _lock_of(path)) is not None:
            held = exclusive(lock, wait=None)
            if held is None:
                return True
            held.close()
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return any(is_held(file) for file in files if not file.is_symlink())


def _open_files() -> Iterator[Path]:
    """Yield the files that processes have open or mapped, as far as this user may see them. Other systems show none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            descriptors = [str(each.readlink()) for each in (process / "fd").iterdir()]
            maps = (process / "maps").read_text(errors="replace").splitlines()
        except OSError:  # it has ended, or is another user's
            continue
        yield from (Path(each) for each in descriptors if each.startswith("/"))
        yield from {Path(line.split(maxsplit=5)[5]) for line in maps if "/" in line}


def _lock_of(path: Path) -> Path | None:
    """Return the file that processes lock while they use a downloaded artifact; None for other paths."""
    lock = path.parent / ".locks" / path.name
    return lock if lock.is_file() else None


def _is_written(journal: Path) -> bool:
    """Return whether a job writes a journal. A file that is not a database is not in use."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(journal))}?mode=rw", uri=True, timeout=0.0)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError:  # locked, or it cannot be opened: its state is not known
        return True
    except sqlite3.DatabaseError:
        return False
    return False


def size_and_age(path: Path, now: float) -> tuple[int, float]:
    """Return the bytes of a file or a folder, and the days since anything in it was used or changed.

    Args:
        path: the file or folder.
        now: present time in seconds since 1970.
    """
    size, latest = 0, 0.0
    if (lock := _lock_of(path)) is not None:  # its time is that of the latest use
        latest = lock.stat().st_mtime
    for file in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        latest = max(latest, status.st_mtime)
        size += status.st_blocks * 512 if not file.is_dir() else 0
    return size, max(now - latest, 0.0) / 86400
