"""`Watchdog`: detects batches that a device does not answer, since a call into a stuck driver never returns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from .open_request import Piece

__all__ = ["STUCK_SECONDS", "Watchdog", "Watched"]

#: Far beyond any batch: the longest text of 8,192 tokens takes a slow processor ten seconds.
STUCK_SECONDS: Final = 120.0


@dataclass(slots=True, eq=False)
class Watched:
    """A batch under way.

    Attributes:
        pieces: the requests' rows in it.
        thread: the thread that waits for it.
        since: `time.monotonic()` of its beginning.
        lost: whether it took too long.
    """

    pieces: Sequence[Piece]
    thread: threading.Thread
    since: float
    lost: bool = False


class Watchdog:
    """Checks batches under way from time to time, on a thread of its own.

    Attributes:
        limit: seconds after which a batch counts as stuck.
    """

    def __init__(self, limit: float, lost: Callable[[Sequence[Piece]], None]) -> None:
        """Begin to check.

        Args:
            limit: seconds after which a batch counts as stuck.
            lost: called once for every batch that is stuck.
        """
        self.limit = limit
        self._report = lost
        self._running: set[Watched] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="fletcher-watchdog", daemon=True)
        self._thread.start()

    @property
    def stuck(self) -> int:
        """Return the number of batches that are stuck now; a batch that returns after all is not stuck any more."""
        with self._lock:
            return sum(watched.lost for watched in self._running)

    def is_lost(self, thread: threading.Thread) -> bool:
        """Return whether a thread waits for a stuck batch."""
        with self._lock:
            return any(watched.lost and watched.thread is thread for watched in self._running)

    @contextmanager
    def watch(self, pieces: Sequence[Piece]) -> Iterator[Watched]:
        """Watch the batch that is computed inside the context."""
        watched = Watched(pieces, threading.current_thread(), time.monotonic())
        with self._lock:
            self._running.add(watched)
        try:
            yield watched
        finally:
            with self._lock:
                self._running.discard(watched)

    def stop(self) -> None:
        """Stop checking."""
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(min(self.limit / 4, 5.0)):
            late = time.monotonic() - self.limit
            with self._lock:
                stuck = [watched for watched in self._running if not watched.lost and watched.since < late]
                for watched in stuck:
                    watched.lost = True
            for watched in stuck:
                self._report(watched.pieces)
