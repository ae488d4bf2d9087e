"""Signals of a server's process: SIGTERM and SIGINT stop it, SIGHUP lets it read its files again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["SIGNAL_SECONDS", "hangups", "stop_signals"]

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
