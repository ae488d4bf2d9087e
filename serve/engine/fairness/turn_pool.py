"""`TurnPool`: threads on which clients take turns, so that the long work of one client does not delay the work of another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ...futures import settle

__all__ = ["TurnPool"]

_T = TypeVar("_T")


class TurnPool:
    """Threads for the work of several clients. Safe to use from any thread."""

    def __init__(self, threads: int, name: str) -> None:
        """Start without threads; each of the first works starts one.

        Args:
            threads: largest number of threads.
            name: beginning of the names of the threads.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._lock = threading.Lock()

    def submit(self, client: str, work: Callable[[], _T]) -> Future[_T]:
        """Run work on one of the threads, after the earlier work of its client.

        Args:
            client: name of the client.
            work: function to call.

        Raises:
            RuntimeError: the pool was shut down.
        """
        future: Future[_T] = Future()
        with self._lock:
            self._pool.submit(self._run_next)
            self._waiting.setdefault(client, deque()).append((future, work))
        return future

    def _run_next(self) -> None:
        """Run the next work of the client whose turn it is. There is one call of this method for each work."""
        with self._lock:
            client = next(iter(self._waiting))
            works = self._waiting.pop(client)
            future, work = works.popleft()
            if works:
                self._waiting[client] = works  # behind all other clients
        if not future.set_running_or_notify_cancel():
            return
        settle(future, work)

    def shutdown(self, *, wait: bool = True, cancel: bool = False) -> None:
        """Take no more work.

        Args:
            wait: whether to wait for the threads.
            cancel: whether to leave out the work that has not begun.
        """
        self._pool.shutdown(wait=wait, cancel_futures=cancel)
