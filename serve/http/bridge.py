"""`Bridge`: passes answers from worker threads to the event loop, and detects clients that disconnect."""

from __future__ import annotations

import asyncio
import threading
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

#: Seconds after which the server checks whether the client of a request has disconnected. Each check costs a task.
WATCH_AFTER = 0.05


class ClientLeftError(Exception):
    """The client of a request has disconnected."""


class Bridge:
    """Converter from futures of the engine to awaitables of one event loop.

    A batch completes dozens of answers. The bridge wakes the loop once for all of them; `asyncio.wrap_future` wakes it once
    for each answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._arrived: deque[tuple[asyncio.Future[Embeddings], Future[Embeddings]]] = deque()
        self._scheduled = False

    async def wait(self, future: Future[Embeddings], receive: Receive) -> Embeddings:
        """Wait for an answer. Cancel the request if the client disconnects first.

        Args:
            future: future of the engine.
            receive: `receive` of ASGI; the whole body has already been read from it.

        Raises:
            ClientLeftError: the client disconnected.
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
        """Queue an answer and wake the event loop."""
        # The deque is atomic. If two threads race, the deque is empty at the second wake-up.
        self._arrived.append((waiter, future))
        if not self._scheduled:
            self._scheduled = True
            if threading.get_ident() == self._thread:  # a front gets answers on the loop itself, which is awake
                self._loop.call_soon(self._deliver)
            else:
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Pass every queued answer to its waiter."""
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
    """Cancel the waiter when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    waiter.cancel()
