"""`watch`: frames on a terminal until the user ends it, also while the server is away."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.live import Live

from fletcher.runtime.errors import ServiceError

from .frame import Frame, compare
from .scrape import Scrape
from .view import render

__all__ = ["Keys", "one_frame", "terminal_keys", "watch"]

#: Keys that end the view: q, Escape and control-D.
ENDING = frozenset("qQ\x1b\x04")

#: Returns the metrics of the server now, or raises `ServiceError`.
Reader = Callable[[], Scrape]


class Keys(Protocol):
    """A function that waits some seconds for a key, and returns it, or an empty text."""

    def __call__(self, seconds: float) -> str: ...


def one_frame(read: Reader, interval: float) -> Frame:
    """Return what the server does within an interval.

    Args:
        read: returns the metrics of the server.
        interval: seconds between two scrapes.

    Raises:
        ServiceError: the server cannot be reached.
    """
    before = read()
    time.sleep(interval)
    return compare(before, read())


def watch(read: Reader, title: str, interval: float, console: Console, keys: Keys) -> None:
    """Show frames until a key of `ENDING` is pressed.

    While the server cannot be reached, the last values and the reason are shown.

    Args:
        read: returns the metrics of the server.
        title: the server's address.
        interval: seconds between two scrapes.
        console: terminal to draw on.
        keys: waits for a key.
    """
    before: Scrape | None = None
    frame: Frame | None = None
    with Live(render(None, title), console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            began, problem = time.monotonic(), None
            try:
                now = read()
            except ServiceError as error:
                before, problem = None, str(error)
            else:
                frame = frame if before is None else compare(before, now)
                before = now
            live.update(render(frame, f"{title}   q ends", problem), refresh=True)
            if keys(max(interval - (time.monotonic() - began), 0.05)) in ENDING:
                return


@contextlib.contextmanager
def terminal_keys() -> Iterator[Keys]:
    """Give a function that waits for keys of the terminal, which are not echoed in the block.

    If standard input is not a terminal, the function only waits.
    """
    if not sys.stdin.isatty():
        yield _no_keys
        return
    import termios  # not on every system that serves
    import tty

    stream = sys.stdin.fileno()
    settings = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream)
        yield _wait_for_key
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, settings)


def _no_keys(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _wait_for_key(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return sys.stdin.read(1) or "\x04" if ready else ""
