"""`VirtualLoop`: asyncio's event loop on a thread of a world. Its selector waits for the world's clock, not for sockets."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any

from .threads import Event, Executor
from .world import Violation, the_world

__all__ = ["VirtualLoop"]

#: Longest time in seconds for which the loop may wait inside a callback, for a lock or for work.
LONGEST_STOP = 0.1


class _Selector:
    """Waits until another thread wakes the loop, or until its next timer. It notices a loop that stood still before."""

    def __init__(self) -> None:
        self.woken = Event()
        self._since = math.inf

    def select(self, timeout: float | None) -> list[Any]:
        stood = the_world().now - self._since
        if stood > LONGEST_STOP:
            raise Violation(f"the event loop stood still for {stood:.2f} s")
        self._wait(timeout)
        self._since = the_world().now
        return []

    def _wait(self, timeout: float | None) -> None:
        if timeout is None or timeout > 0:
            self.woken.wait(timeout)
        else:
            the_world().pause()
        self.woken.clear()


class VirtualLoop(asyncio.BaseEventLoop):
    """Event loop whose clock is the world's. Everything else is asyncio's own code."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Selector()
        self._clock_resolution = 1e-9
        self._default_executor: Any = Executor(6, "default")

    def time(self) -> float:
        return the_world().now

    def _write_to_self(self) -> None:
        self._selector.woken.set()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def dispose(self) -> None:
        """Close the loop; end what a run that failed has left."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(Exception):
                task.get_coro().close()
        self._ready.clear()  # type: ignore[attr-defined]
        self.close()
