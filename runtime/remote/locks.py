"""Locks of the cache: one lock file for each artifact, which processes share while they use the artifact's folder.

`flock` works between the processes of a node, and ends with the process that holds it, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..closing import Closing

__all__ = ["Hold", "exclusive", "shared"]

#: Seconds between two attempts to get a lock that another process holds.
LOOK_SECONDS: Final = 0.05

#: Errors of a file system that takes no lock files: it is mounted read-only, or belongs to another user.
READ_ONLY: Final = (errno.EROFS, errno.EACCES, errno.EPERM)


class Hold(Closing):
    """A lock that this process holds until it is closed. One without a lock file holds nothing."""

    def __init__(self, descriptor: int | None) -> None:
        """Take an open and locked file; most callers use `shared` or `exclusive`."""
        self._descriptor = descriptor

    def close(self) -> None:
        """Release the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # the lock ends in any case, and nothing was written
                os.close(descriptor)


def shared(file: Path) -> Hold:
    """Lock a file together with others who use the same folder; wait while an evictor has it, which takes moments.

    On a file system that is mounted read-only nothing is locked, because no process on this mount can remove anything.

    Raises:
        OSError: the file cannot be made, for another reason.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return _shared_reader(file)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.utime(descriptor)  # the time of the latest use, for the evictor
    return Hold(descriptor)


def _shared_reader(file: Path) -> Hold:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return Hold(None)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return Hold(descriptor)


def exclusive(file: Path, *, wait: Callable[[], None] | None) -> Hold | None:
    """Lock a file alone.

    Args:
        file: the lock file.
        wait: called before each pause while another process has the lock; None does not wait.

    Returns:
        The lock; None if another process has it and `wait` is None.

    Raises:
        OSError: the file cannot be made.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is None:
                    os.close(descriptor)
                    return None
                wait()
                time.sleep(LOOK_SECONDS)
            else:
                return Hold(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
