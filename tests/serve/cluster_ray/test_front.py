"""The wrapper around the application: the lifespan, one request id, and no client address."""

from __future__ import annotations

import asyncio
from typing import Any

from fletcher.serve.cluster_ray.front import served


async def play(app: Any, scope: dict[str, Any], events: list[str]) -> list[Any]:
    """Send events to an application, and return what it sends."""
    sent: list[Any] = []
    incoming = iter(events)

    async def receive() -> dict[str, str]:
        return {"type": next(incoming)}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def test_the_lifespan_is_answered_and_closes() -> None:
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("an application that does not know the lifespan, as Fletcher's")

    sent = asyncio.run(play(served(refuse, close), {"type": "lifespan"}, ["lifespan.startup", "lifespan.shutdown"]))
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert closed == [True]


def test_an_answer_keeps_all_headers_but_the_request_id() -> None:
    seen: dict[str, Any] = {}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)
        headers = [(b"x-request-id", b"r1"), (b"x-space", b"s"), (b"retry-after", b"2")]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    async def close() -> None: ...

    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": [(b"x-request-id", b"r1")]}
    start, body = asyncio.run(play(served(answer, close), scope, []))
    assert start == {
        "type": "http.response.start",
        "status": 429,
        "headers": [(b"x-space", b"s"), (b"retry-after", b"2")],
    }
    assert body["body"] == b"x"
    assert seen["client"] is None  # that of HAProxy would be on the loopback, and let everybody administrate
    assert seen["headers"] == [(b"x-request-id", b"r1")]
