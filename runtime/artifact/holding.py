"""Holds on files: who uses a file keeps a shared lock on it, so that no other process removes the file meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import Final

from ..closing import Closing

__all__ = ["Hold", "hold", "is_held", "share"]

#: Tries, and seconds between them: another process that asks whether the file is held has the lock for an instant.
TRIES: Final = 3
SECONDS: Final = 0.01


class Hold(Closing):
    """A hold on a file, which ends with `close` or with the object."""

    def __init__(self, descriptor: int) -> None:
        """Hold an open file.

        Args:
            descriptor: descriptor of the file, which the object closes.
        """
        self._close = weakref.finalize(self, os.close, descriptor)
        share(descriptor)

    def close(self) -> None:
        """End the hold."""
        self._close()


def share(descriptor: int) -> None:
    """Hold an open file until its descriptor is closed. A file system without locks holds nothing."""
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(SECONDS)
        except OSError:
            return
        else:
            return


def hold(file: Path) -> Hold | None:
    """Open a file and hold it, and set its time of last use; None if it cannot be opened."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a read-only file has no time of last use
        os.utime(file)
    return Hold(descriptor)


def is_held(file: Path) -> bool:
    """Return whether a process holds a file, in this container or in another one on this machine.

    A file that cannot be opened counts as held, because its state is not known.
    """
    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
