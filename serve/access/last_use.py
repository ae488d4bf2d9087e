"""`LastUse`: times at which keys were used, in a file beside the file of keys, for `fletcher-serve keys list`."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from fletcher.model_zoo.decode import decode_json

__all__ = ["LastUse", "read_last_use"]

logger = logging.getLogger("fletcher.serve.access")

#: Seconds between two writes.
WRITE_SECONDS: Final = 30.0


def _path(keys: Path) -> Path:
    """Return the file with the times. It has no secret, but names."""
    resolved = keys.resolve()
    return resolved.with_name(f"{resolved.name}.used")


def read_last_use(keys: Path) -> dict[str, float]:
    """Return the time of the last use of each key, in seconds since 1970, by name. Keys that were never used are absent.

    Args:
        keys: the file of keys.
    """
    try:
        return decode_json(_path(keys).read_bytes(), dict[str, float])
    except (OSError, msgspec.DecodeError):  # no server has written it yet, or it is not a file of times
        return {}


class LastUse:
    """Times of a process. Several processes write one file: each name keeps its latest time. Safe to use from any thread."""

    def __init__(self, keys: Path) -> None:
        """Begin.

        Args:
            keys: the file of keys.
        """
        self._keys = keys
        self._times: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned = False
        self._lock = threading.Lock()

    def note(self, name: str) -> None:
        """Note that a key was used now."""
        self._times[name] = time.time()
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._write_regularly, name="fletcher-last-use", daemon=True)
                self._thread.start()

    def _write_regularly(self) -> None:
        while not self._ended.wait(WRITE_SECONDS):
            self._write()

    def close(self) -> None:
        """Write what is new, and end."""
        self._ended.set()
        if self._times:
            self._write()

    def _write(self) -> None:
        """Join the times with those in the file. A folder that cannot be written is reported once."""
        times = dict(self._times)
        if times == self._written:
            return
        try:
            handle = os.open(_path(self._keys), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                try:
                    known = decode_json(file.read(), dict[str, float])
                except msgspec.DecodeError:
                    known = {}
                joined = known | {name: max(at, known.get(name, 0.0)) for name, at in times.items()}
                file.seek(0)
                file.write(msgspec.json.encode(joined))
                file.truncate()
        except OSError as error:
            if not self._warned:
                self._warned = True
                fields = {"path": str(_path(self._keys)), "reason": error.strerror}
                logger.warning("the last uses of keys cannot be written", extra={"fields": fields})
            return
        self._written = times
