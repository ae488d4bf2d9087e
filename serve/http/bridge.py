"""`Bridge`: brings answers of the workers' threads to the event loop, many in one wake-up, and notices clients that leave."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from fletcher.runtime import Embeddings

__all__ = ["Bridge", "ClientLeftError", "Message", "Receive"]

#: A message of ASGI.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

#: Seconds that an answer may take before the server watches whether its client left: watching costs a task.
WATCH_AFTER = 0.05


class ClientLeftError(Exception):
    """The client of a request has left."""


class Bridge:
    """Turns the engine's futures into awaitables of one event loop.

    `asyncio.wrap_future` wakes the loop once for each answer; a batch has dozens of answers at a time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: deque[tuple[asyncio.Future[Embeddings], Future[Embeddings]]] = deque()
        self._scheduled = False

    async def wait(self, future: Future[Embeddings], receive: Receive) -> Embeddings:
        """Wait for an answer. Cancel the work if the client leaves first.

        Args:
            future: the engine's future.
            receive: ASGI's receive; the request's body has been read from it.

        Raises:
            ClientLeftError: the client left.
        """
        waiter: asyncio.Future[Embeddings] = self._loop.create_future()
        future.add_done_callback(partial(self._arrive, waiter))
        watches: list[asyncio.Task[None]] = []
        timer = self._loop.call_later(
            WATCH_AFTER, lambda: watches.append(self._loop.create_task(_watch(receive, waiter)))
        )
        try:
            return await waiter
        except asyncio.CancelledError:
            future.cancel()
            if watches and watches[0].done():
                raise ClientLeftError from None
            raise
        finally:
            timer.cancel()
            for watch in watches:
                watch.cancel()

    def _arrive(self, waiter: asyncio.Future[Embeddings], future: Future[Embeddings]) -> None:
        """Note that an answer has arrived, and wake the event loop."""
        # On a worker's thread. The deque's operations are atomic; if two threads race, the second wake-up finds it empty.
        self._arrived.append((waiter, future))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Give every answer that has arrived to its waiter."""
        self._scheduled = False  # first, so that an answer that arrives while the loop below ends wakes the loop again
        while self._arrived:
            waiter, future = self._arrived.popleft()
            if waiter.done() or future.cancelled():
                continue
            error = future.exception()
            if error is None:
                waiter.set_result(future.result())
            else:
                waiter.set_exception(error)


async def _watch(receive: Receive, waiter: asyncio.Future[Embeddings]) -> None:
    """Cancel the waiter when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    waiter.cancel()
