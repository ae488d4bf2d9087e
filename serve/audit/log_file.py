"""`LogFile`: the file of an audit log, which one process writes. It continues the chain of the files before it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fletcher.runtime.artifact.durable import sync
from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

from .chain import FIRST, Head, head_of, seal
from .entry import body_of, of_event

__all__ = ["LogFile", "rotated_files"]

logger = logging.getLogger("fletcher.serve.audit")

#: Bytes at the end of a file in which its last line is looked for. Names and ids of a line are bounded.
TAIL_BYTES: Final = 1 << 18

#: Seconds between two writes of the head to the log of the server, and between two requests that the disk has all lines.
HEAD_SECONDS: Final = 60.0
SYNC_SECONDS: Final = 1.0

#: Digits of the number in the name of a rotated file.
DIGITS: Final = 12


def rotated_files(path: Path) -> list[Path]:
    """Return the earlier files of a log in the order of their lines: `FILE.` with the number of the last line."""
    form = re.compile(rf"{re.escape(path.name)}\.\d{{{DIGITS}}}")
    folder = path.parent
    return sorted(one for one in folder.iterdir() if form.fullmatch(one.name)) if folder.is_dir() else []


class LogFile:
    """The file. Safe to use from any thread.

    Attributes:
        head: end of the chain.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        """Open the file, or make it; continue the chain of what is there.

        Args:
            path: the file.
            most_bytes: size from which a new file is begun.

        Raises:
            InputError: the file cannot be written, another process writes it, or it is not an audit log.
        """
        self._path = path
        self._most_bytes = most_bytes
        self._mutex = threading.Lock()
        self._next_head = self._next_sync = 0.0
        try:
            with contextlib.ExitStack() as opened:  # after an error, another attempt must not find the lock taken
                self._lock = _lock(path)
                opened.callback(os.close, self._lock)
                self._file = self._open()
                opened.callback(os.close, self._file)
                self.head, cut = self._continue()
                opened.pop_all()
        except OSError as error:
            raise InputError(f"--audit {path} cannot be written: {explain(error)}") from error
        if cut:
            self.append([body_of(of_event("recovered", time.time(), {"count": cut}))])

    def append(self, bodies: Sequence[bytes]) -> None:
        """Write lines. After an error the file is as before.

        Args:
            bodies: contents of the lines, without braces and newlines.

        Raises:
            OSError: the lines cannot be written.
        """
        with self._mutex:
            before = self._size()
            if before >= self._most_bytes:
                self._rotate()
                before = self._size()
            lines, head = seal(bodies, self.head)
            try:
                rest = memoryview(lines)
                while rest:
                    rest = rest[os.write(self._file, rest) :]
            except OSError:
                os.ftruncate(self._file, before)
                raise
            self.head = head
            now = time.monotonic()
            if now >= self._next_sync:
                self._next_sync = now + SYNC_SECONDS
                self._sync()
            if now >= self._next_head:
                self._next_head = now + HEAD_SECONDS
                self._tell_head()

    def reopen(self) -> None:
        """Begin a new file if the present one was moved away, as logrotate does before SIGHUP.

        Raises:
            InputError: the new file cannot be made.
        """
        with self._mutex:
            try:
                present = self._path.stat()
                own = os.fstat(self._file)
                if (present.st_dev, present.st_ino) == (own.st_dev, own.st_ino):
                    return
            except FileNotFoundError:
                pass
            try:
                self._exchange()
            except OSError as error:
                raise InputError(f"--audit {self._path} cannot be written: {explain(error)}") from error

    def close(self) -> None:
        """Let the disk have all lines, and close the file. Repeated calls do nothing."""
        with self._mutex:
            if self._file < 0:
                return
            self._sync()
            self._tell_head()
            file, self._file = self._file, -1
            try:
                os.close(file)
            finally:
                os.close(self._lock)

    def _rotate(self) -> None:
        self._sync()  # before the new name: a server that starts after a power cut continues what has it
        with contextlib.suppress(FileNotFoundError):  # moved already, for example before an error
            self._path.rename(self._path.with_name(f"{self._path.name}.{self.head.seq:0{DIGITS}}"))
            sync(self._path.parent)  # a power cut must not keep the new file and undo the old one's new name
        self._exchange()

    def _sync(self) -> None:
        """Let the disk have all lines. The lines are written already, so a failure is only logged."""
        try:
            os.fsync(self._file)
        except OSError as error:
            logger.error("the disk may lack lines of the audit log", extra={"fields": {"reason": explain(error)}})

    def _exchange(self) -> None:
        """Write to a new file at the path from now on. The old one stays where it is."""
        opened = self._open()
        self._sync()
        os.close(self._file)
        self._file = opened
        self._tell_head()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _size(self) -> int:
        return os.fstat(self._file).st_size

    def _continue(self) -> tuple[Head, int]:
        """Return the head of what is there, and the bytes of a last line without an end, which are cut off.

        Raises:
            InputError: the last line is not one of an audit log.
        """
        size = self._size()
        if size == 0:
            earlier = rotated_files(self._path)
            return (_last_head(earlier[-1]), 0) if earlier else (FIRST, 0)
        tail = _tail(self._file, size)
        whole = tail.rfind(b"\n") + 1
        cut = len(tail) - whole
        if cut:  # the machine or the process ended in the middle of a line
            if not whole and size > len(tail):
                raise InputError(f"--audit {self._path} is not an audit log: it has no line at its end")
            os.ftruncate(self._file, size - cut)
            logger.warning("the last line of the audit log was cut off", extra={"fields": {"bytes": cut}})
        if not whole:
            earlier = rotated_files(self._path)
            return (_last_head(earlier[-1]) if earlier else FIRST), cut
        return _head_at_end(tail[:whole], self._path), cut

    def _tell_head(self) -> None:
        logger.info("audit head", extra={"fields": {"file": str(self._path), "head": str(self.head)}})


def _lock(path: Path) -> int:
    """Return the descriptor of a lock that no other process has.

    Raises:
        InputError: another process has it.
        OSError: the file of the lock cannot be made.
    """
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise InputError(
            f"--audit {path}: another server writes this log; each server needs a file of its own"
        ) from None
    return lock


def _tail(file: int, size: int) -> bytes:
    return os.pread(file, TAIL_BYTES, max(size - TAIL_BYTES, 0))


def _last_head(path: Path) -> Head:
    """Return the head of a rotated file."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _head_at_end(_tail(file, os.fstat(file).st_size), path)
    finally:
        os.close(file)


def _head_at_end(tail: bytes, path: Path) -> Head:
    line = tail[tail.rfind(b"\n", 0, len(tail) - 1) + 1 :]
    try:
        return head_of(line)[0]
    except InputError:
        raise InputError(f"--audit {path} is not an audit log: its last line has another form") from None
