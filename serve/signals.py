"""Signals of a server's process: SIGTERM and SIGINT stop it, SIGHUP lets it read its files again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["SIGNAL_SECONDS", "hangups", "stop_signals", "wait_until_stopped"]

#: Seconds between two checks for a signal. A signal that another thread receives, or that comes just before the wait, does
#: not interrupt it.
SIGNAL_SECONDS = 0.5


@contextmanager
def hangups() -> Iterator[threading.Event]:
    """Return an event that SIGHUP sets; restore the previous handler at the end."""
    event = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Return an event that SIGTERM and SIGINT set. A second signal ends the process with the previous handler."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
        stopped.set()

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_until_stopped(
    stopped: threading.Event,
    hung_up: threading.Event,
    *,
    on_hangup: Callable[[], None],
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
