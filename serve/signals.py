"""Signals of a server's process: SIGTERM and SIGINT stop it, SIGHUP lets it read its files again."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Final, NoReturn

__all__ = [
    "SIGNAL_SECONDS",
    "STOP_MARGIN",
    "end_process",
    "hangups",
    "ignore_stop_signals",
    "last_resort",
    "stop_signals",
    "wait_until_stopped",
]

logger = logging.getLogger("fletcher.serve")

#: Seconds between two checks for a signal. A signal that another thread receives, or that comes just before the wait, does
#: not interrupt it.
SIGNAL_SECONDS = 0.5

#: Seconds that a stop may take above the time to drain.
STOP_MARGIN: Final = 1.0

#: Signals that stop a server.
STOPPING: Final = (signal.SIGTERM, signal.SIGINT)

#: Seconds in which further signals to stop are the same one: a wrapper that signals a process and its group sends two.
SAME_SECONDS: Final = 2.0


@contextmanager
def _setter(event: threading.Event) -> Iterator[Callable[[], None]]:
    """Return a function that sets an event, which a signal's handler may call.

    A handler must not set an event itself: it runs on the main thread between two instructions, and if that thread is inside
    `Event.wait` with the event's lock, it would wait for itself forever. `SimpleQueue.put` needs no such lock.
    """
    calls: SimpleQueue[bool] = SimpleQueue()

    def work() -> None:
        while calls.get():
            event.set()

    thread = threading.Thread(target=work, name="fletcher-signals", daemon=True)
    thread.start()
    try:
        yield lambda: calls.put(True)
    finally:
        calls.put(False)
        thread.join()


@contextmanager
def hangups() -> Iterator[threading.Event]:
    """Return an event that SIGHUP sets; restore the previous handler at the end."""
    event = threading.Event()
    with _setter(event) as set_event:
        before = signal.signal(signal.SIGHUP, lambda number, frame: set_event())
        try:
            yield event
        finally:
            signal.signal(signal.SIGHUP, before)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Return an event that SIGTERM and SIGINT set; restore the previous handlers at the end.

    Signals in the first `SAME_SECONDS` are the same signal. A later one ends the process at once, with 128 plus the number of
    the signal: neither the previous handler nor an exception would do, because an interpreter that ends while threads are
    inside native code aborts.
    """
    stopped = threading.Event()
    first: list[float] = []
    with _setter(stopped) as set_stopped:

        def stop(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if not first:
                first.append(now)
                set_stopped()
            elif now - first[0] > SAME_SECONDS:
                os._exit(128 + number)

        before = {number: signal.signal(number, stop) for number in STOPPING}
        try:
            yield stopped
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def last_resort(stopped: threading.Event, seconds: float, before_end: Callable[[], object]) -> Iterator[None]:
    """End the process if the block has not ended some seconds after the signal to stop, whatever holds it.

    Args:
        stopped: event of `stop_signals`.
        seconds: seconds that an orderly stop may take.
        before_end: called before the process ends.
    """
    left = threading.Event()

    def watch() -> None:
        stopped.wait()
        if not left.wait(seconds):
            logger.error("the stop takes too long, so the process ends now", extra={"fields": {"all_answered": False}})
            try:
                before_end()
            finally:
                end_process(0)

    threading.Thread(target=watch, name="fletcher-last-resort", daemon=True).start()
    try:
        yield
    finally:
        left.set()


def ignore_stop_signals() -> None:
    """Ignore SIGTERM and SIGINT from now on: the process is ending with the exit code of its first signal."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def end_process(code: int) -> NoReturn:
    """End the process at once after its output was written.

    Args:
        code: exit code.

    The end of the interpreter would abort the process if threads are still inside native code, for example in a batch that
    was not done when the time to drain had passed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_until_stopped(
    stopped: threading.Event,
    hung_up: threading.Event,
    *,
    on_hangup: Callable[[], object],
    ended: Callable[[], bool] = lambda: False,
) -> None:
    """Wait for the signal to stop, and act on every SIGHUP before it.

    Args:
        stopped: event of `stop_signals`.
        hung_up: event of `hangups`.
        on_hangup: called after each SIGHUP, on this thread.
        ended: returns whether the server has ended by itself.
    """
    while not stopped.wait(SIGNAL_SECONDS) and not ended():
        if hung_up.is_set():
            hung_up.clear()
            on_hangup()
