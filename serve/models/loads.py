"""`Loads`: work that reads files or opens models, each on a thread of its own and with a deadline.

A file system that does not answer, or a graph that never ends, holds a thread forever: Python cannot end it. So the thread is
left alone after the deadline, and nothing else waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from fletcher.runtime.errors import DeadlineError, ServiceError

from ..futures import settle

__all__ = ["LOAD_SECONDS", "Loads", "in_background", "on_thread"]

logger = logging.getLogger("fletcher.serve.models.registry")

T = TypeVar("T")

#: Seconds that a load may take by default.
LOAD_SECONDS: Final = 600.0

#: Loads that may hang at the same time; each holds a thread and perhaps a model.
MAX_HUNG: Final = 4


def on_thread(work: Callable[[], T], name: str) -> Future[T]:
    """Run work on a new thread that does not keep the process alive; return a future of its result."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # so that a caller that leaves does not cancel it for the others
    threading.Thread(target=settle, args=(future, work), name=name, daemon=True).start()
    return future


def in_background(work: Callable[[], object], name: str) -> None:
    """Run work on a new thread that does not keep the process alive; an error of it is logged."""
    on_thread(work, name).add_done_callback(_log_error)


def _log_error(future: Future[object]) -> None:
    if (error := future.exception()) is not None:
        logger.error("work on a thread failed", exc_info=error)


class Loads:
    """Loads with a deadline. Safe to use from any thread."""

    def __init__(self, seconds: float = LOAD_SECONDS) -> None:
        """Begin.

        Args:
            seconds: seconds that a load may take.
        """
        self._seconds = seconds
        self._lock = threading.Lock()
        self._hung = 0

    @property
    def hung(self) -> int:
        """The number of loads that are late and have not ended."""
        return self._hung

    def run(self, work: Callable[[], T], discard: Callable[[T], None], what: str) -> T:
        """Run a load and wait for it.

        Args:
            work: the load.
            discard: called with the result of a load that ends after its deadline.
            what: name of what is loaded, for errors.

        Raises:
            DeadlineError: it did not end in time.
            ServiceError: too many loads hang already.
            What `work` raises.
        """
        with self._lock:
            if self._hung >= MAX_HUNG:
                raise ServiceError(
                    f"{self._hung} loads have not ended: see why their folders do not answer, and start the server again"
                )
        future = on_thread(work, "fletcher-load")
        try:
            return future.result(self._seconds)
        except TimeoutError:
            if future.done():  # it ended just now, or its own error is a timeout
                return future.result()
        with self._lock:
            self._hung += 1
        logger.error("a load hangs", extra={"fields": {"load": what, "seconds": self._seconds}})
        future.add_done_callback(lambda late: self._end(late, discard, what))
        raise DeadlineError(
            f"{what} was not loaded within {self._seconds:g} s (--load-seconds): the models are the same as before"
        )

    def _end(self, late: Future[T], discard: Callable[[T], None], what: str) -> None:
        """Count a late load as ended, and close what it opened. Runs on the load's thread."""
        with self._lock:
            self._hung -= 1
        logger.warning("a load that hung has ended", extra={"fields": {"load": what}})
        if late.exception() is None:
            discard(late.result())
