"""`Watchdog`: detects batches that a device does not answer. A call into a driver that hangs never returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from .open_request import Piece

__all__ = ["STUCK_SECONDS", "Watchdog", "Watched"]

#: Seconds after which a batch counts as stuck. A slow processor computes the longest text, of 8,192 tokens, in ten seconds.
STUCK_SECONDS: Final = 120.0


@dataclass(slots=True, eq=False)
class Watched:
    """A batch that is being computed.

    Attributes:
        pieces: rows of the requests in it.
        thread: the thread that waits for it.
        since: `time.monotonic()` of its start.
        lost: True after it took too long.
    """

    pieces: Sequence[Piece]
    thread: threading.Thread
    since: float
    lost: bool = False


class Watchdog:
    """Watchdog of batches. It checks them periodically on a separate thread.

    Attributes:
        limit: seconds after which a batch counts as stuck.
    """

    def __init__(self, limit: float, lost: Callable[[Sequence[Piece]], None]) -> None:
        """Start the thread.

        Args:
            limit: seconds after which a batch counts as stuck.
            lost: called once for each batch that is stuck, with its pieces.
        """
        self.limit = limit
        self._report = lost
        self._running: dict[Watched, None] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._check_batches, name="fletcher-watchdog", daemon=True)
        self._thread.start()

    @property
    def stuck(self) -> int:
        """Return the number of batches that are stuck now. A batch that returns late is not counted after that."""
        with self._lock:
            return sum(watched.lost for watched in self._running)

    def is_lost(self, thread: threading.Thread) -> bool:
        """Return True if a thread waits for a stuck batch."""
        with self._lock:
            return any(watched.lost and watched.thread is thread for watched in self._running)

    @contextmanager
    def watch(self, pieces: Sequence[Piece]) -> Iterator[Watched]:
        """Watch a batch that is computed inside the context.

        Args:
            pieces: the batch.
        """
        watched = Watched(pieces, threading.current_thread(), time.monotonic())
        with self._lock:
            self._running[watched] = None
        try:
            yield watched
        finally:
            with self._lock:
                self._running.pop(watched, None)

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _check_batches(self) -> None:
        while not self._stopped.wait(min(self.limit / 4, 5.0)):
            late = time.monotonic() - self.limit
            with self._lock:
                stuck = [watched for watched in self._running if not watched.lost and watched.since < late]
                for watched in stuck:
                    watched.lost = True
            for watched in stuck:
                self._report(watched.pieces)
