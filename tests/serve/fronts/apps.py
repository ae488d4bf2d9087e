"""ASGI applications and servers for the tests of front processes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fletcher.serve.access.addresses import bind_path
from fletcher.serve.fronts.forward import Forward
from fletcher.serve.http.call import AsgiApp
from fletcher.serve.http.server import HttpServer


class Mirror:
    """ASGI application that answers with what it was asked, and offers answers of several forms by their paths.

    Attributes:
        left: number of requests whose clients disconnected.
        bodies: sizes of the parts of the last body.
    """

    def __init__(self) -> None:
        self.left = 0
        self.bodies: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        name = scope["path"].strip("/").replace("-", "_") or "echo"
        await getattr(self, f"_{name}")(scope, receive, send)

    async def _echo(self, scope: Any, receive: Any, send: Any) -> None:
        body = await self._read(receive)
        answer = {
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "query": scope["query_string"].decode(),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "client": scope["client"],
            "body": body.decode("latin-1"),
        }
        await _answer(send, 200, json.dumps(answer).encode(), [(b"x-kept", b"1"), (b"x-kept", b"2")])

    async def _not_modified(self, scope: Any, receive: Any, send: Any) -> None:
        await _answer(send, 304, b"", [(b"etag", b'"a"')], sized=False)

    async def _no_content(self, scope: Any, receive: Any, send: Any) -> None:
        await _answer(send, 204, b"", [], sized=False)

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer each part of the body at once, in upper case."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _refused(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer before the body has arrived."""
        await _answer(send, 413, b"too large", [])

    async def _wait(self, scope: Any, receive: Any, send: Any) -> None:
        """Wait until the client disconnects."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left += 1

    async def _slow(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.3)
        await _answer(send, 200, b"late", [])

    async def _big(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(64):
            await send({"type": "http.response.body", "body": bytes([number]) * (1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _read(self, receive: Any) -> bytes:
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message["body"])
            more = message.get("more_body", False)
        self.bodies = [len(part) for part in parts]
        return b"".join(parts)


async def _answer(
    send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]], *, sized: bool = True
) -> None:
    size = [(b"content-length", b"%d" % len(body))] if sized else []
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *size]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def serving_path(app: AsgiApp, path: str) -> Iterator[HttpServer]:
    """Serve an application on a Unix socket."""
    server = HttpServer(app, bind_path(path), drain_seconds=5)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.join()


@contextmanager
def serving(app: AsgiApp) -> Iterator[str]:
    """Serve an application on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(app, listener, drain_seconds=5, on_end=app.close if isinstance(app, Forward) else None)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
        server.join()
