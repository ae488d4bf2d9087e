"""Sees batches that a device does not answer: nothing else would, for a call into a stuck driver never comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from .request import Piece

__all__ = ["STUCK_SECONDS", "Watchdog", "Watched"]

#: Far beyond any batch: the longest text of 8,192 tokens takes a slow processor ten seconds.
STUCK_SECONDS: Final = 120.0


@dataclass(slots=True, eq=False)
class Watched:
    """A batch under way.

    Attributes:
        pieces: what of which requests it is.
        thread: what waits for it.
        since: `time.monotonic()` of its beginning.
        lost: whether it took too long.
    """

    pieces: Sequence[Piece]
    thread: threading.Thread
    since: float
    lost: bool = False


class Watchdog:
    """Looks at batches under way from time to time, on a thread of its own.

    Attributes:
        limit: seconds after which a batch counts as stuck.
    """

    def __init__(self, limit: float, lost: Callable[[Sequence[Piece]], None]) -> None:
        """
        Args:
            limit: seconds.
            lost: told of every batch that is stuck, once.
        """
        self.limit = limit
        self._tell = lost
        self._running: set[Watched] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="fletcher-watchdog", daemon=True)
        self._thread.start()

    @property
    def stuck(self) -> int:
        """Batches that are stuck now; one that comes back after all is not any more."""
        with self._lock:
            return sum(watched.lost for watched in self._running)

    def is_lost(self, thread: threading.Thread) -> bool:
        """Whether a thread waits for a stuck batch."""
        with self._lock:
            return any(watched.lost and watched.thread is thread for watched in self._running)

    @contextmanager
    def watch(self, pieces: Sequence[Piece]) -> Iterator[Watched]:
        """Watches what is done inside."""
        watched = Watched(pieces, threading.current_thread(), time.monotonic())
        with self._lock:
            self._running.add(watched)
        try:
            yield watched
        finally:
            with self._lock:
                self._running.discard(watched)

    def stop(self) -> None:
        """Looks no more."""
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(min(self.limit / 4, 5.0)):
            late = time.monotonic() - self.limit
            with self._lock:
                found = [watched for watched in self._running if not watched.lost and watched.since < late]
                for watched in found:
                    watched.lost = True
            for watched in found:
                self._tell(watched.pieces)
