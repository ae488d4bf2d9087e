"""`served`: ASGI wrapper around Fletcher's application inside a replica of Ray Serve.

It keeps apart what Ray Serve does itself: the events of the lifespan, the id of a request in the answer, and the address of
the client, which is that of HAProxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..http.bridge import Receive
from ..http.call import AsgiApp, Scope, Send
from ..request_headers import REQUEST_ID

__all__ = ["served"]

_REQUEST_ID = REQUEST_ID.encode()


def served(app: AsgiApp, close: Callable[[], Awaitable[None]]) -> AsgiApp:
    """Return the application for `__serve_build_asgi_app__`.

    Ray Serve refuses an application that raises an error for the `lifespan` scope. It adds `X-Request-ID` to each answer, so
    that of Fletcher, which has the same value, is left out. Requests have no client address: HAProxy sends none, and rules
    for HAProxy's address would be rules for everybody.

    Args:
        app: Fletcher's application.
        close: called at the end of the lifespan, before the replica's process ends.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send, close)
            return

        async def forward(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [header for header in message["headers"] if header[0] != _REQUEST_ID]
                message = {**message, "headers": kept}
            await send(message)

        await app({**scope, "client": None}, receive, forward)

    return answer


async def _live(receive: Receive, send: Send, close: Callable[[], Awaitable[None]]) -> None:
    """Answer the events of the lifespan."""
    while True:
        event = (await receive())["type"]  # lifespan.startup, then lifespan.shutdown
        if event == "lifespan.shutdown":
            await asyncio.shield(close())
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
