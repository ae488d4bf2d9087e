"""`Forward`: an ASGI application that passes a request on to an HTTP application on a Unix socket.

A front answers its hot routes itself and forwards every other request to the engine process. Bodies stream both ways.
`trusting_peer` is the other side: it restores the address of the client, which a Unix socket does not have.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from typing import Final

from fletcher.runtime.errors import ServiceError

from ..http.bridge import Receive
from ..http.call import JSON, AsgiApp, Scope, Send
from ..http.errors import OPENAI
from ..request_headers import CERTIFICATE, PLAIN_ID, REQUEST_ID
from ..tls.names import EXTENSION
from .upstream import AwayError, LeftError, Upstream

__all__ = ["PEER", "Forward", "trusting_peer"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Header with the client's address, `HOST PORT`, from a front to the engine.
PEER: Final = b"x-fletcher-peer"

#: Header with the name in the client's certificate, from a front to the engine.
CERTIFIED: Final = CERTIFICATE.encode()

#: Headers of one connection, which do not belong to the other one (RFC 9110, section 7.6.1), and the peer and the
#: certificate that a client invents. uvicorn answers `expect` itself.
REQUEST_DROPS: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"upgrade",
        b"http2-settings",
        b"transfer-encoding",
        b"expect",
        PEER,
        CERTIFIED,
    }
)

#: The same for answers. The front's server adds its own date and security header.
ANSWER_DROPS: Final = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"date", b"x-content-type-options"}
)

#: Idle connections that are kept, and the seconds for which they are kept: fewer than the engine's (`KEEP_ALIVE_SECONDS`), so
#: that the engine does not close a connection at the moment of its next use.
MAX_IDLE: Final = 32
IDLE_SECONDS: Final = 30.0

#: Seconds after which a client may try again while the engine is started again.
RETRY_AFTER: Final = b"1"


class Forward:
    """ASGI application over an HTTP application on a Unix socket. It runs on one event loop."""

    def __init__(self, path: str) -> None:
        """Prepare the application; connections are opened when they are needed.

        Args:
            path: path of the Unix socket.
        """
        self._path = path
        self._idle: list[Upstream] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        head, chunked = _request_head(scope)
        # A request without a body may be sent twice; the body of another one is gone with the first attempt.
        empty = not chunked and not any(name == b"content-length" and value != b"0" for name, value in scope["headers"])
        upstream: Upstream | None = None
        try:
            while True:
                try:
                    upstream = await self._open()
                    await self._exchange(upstream, (head, chunked), scope, receive, send)
                    return
                except AwayError as error:
                    if not (error.stale and empty):
                        raise
        except AwayError:
            if upstream is not None and upstream.begun:
                logger.warning("the engine process ended in the middle of an answer")
                return  # uvicorn closes a connection whose answer is incomplete
            await _refuse(scope, send)
        except LeftError:
            return

    def close(self) -> None:
        """Close idle connections. Only the event loop calls it."""
        for upstream in self._idle:
            upstream.close()
        self._idle.clear()

    async def _open(self) -> Upstream:
        """Return a connection to the engine.

        Raises:
            AwayError: the engine does not listen.
        """
        now = asyncio.get_running_loop().time()
        while self._idle:
            upstream = self._idle.pop()
            if not upstream.lost and now - upstream.idle_since < IDLE_SECONDS:
                return upstream
            upstream.close()
        try:
            _, upstream = await asyncio.get_running_loop().create_unix_connection(Upstream, self._path)
        except OSError:
            raise AwayError(stale=False) from None
        return upstream

    async def _exchange(
        self, upstream: Upstream, request: tuple[bytes, bool], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send a request and pass its answer back. The connection is kept for the next request if it can be.

        Raises:
            AwayError: the engine closed the connection.
            LeftError: the client has disconnected.
        """
        head, chunked = request
        upstream.begin(bodiless=scope["method"] == "HEAD")
        upstream.write(head)
        upload = asyncio.get_running_loop().create_task(_upload(upstream, receive, chunked=chunked))
        try:
            await upstream.head()
            drops = ANSWER_DROPS | {b"content-length"} if upstream.status in (204, 304) else ANSWER_DROPS
            headers = [(name, value) for name, value in upstream.headers if name not in drops]
            upstream.begun = True
            await send({"type": "http.response.start", "status": upstream.status, "headers": headers})
            more = True
            while more:
                part, more = await upstream.part()
                if not more:
                    upload.cancel()  # `receive` reports a disconnection after the answer, too
                await send({"type": "http.response.body", "body": part, "more_body": more})
            if upstream.sent and upstream.reusable and len(self._idle) < MAX_IDLE:
                upstream.idle_since = asyncio.get_running_loop().time()
                self._idle.append(upstream)
        finally:
            upload.cancel()
            if upstream not in self._idle:
                upstream.close()


async def _upload(upstream: Upstream, receive: Receive, *, chunked: bool) -> None:
    """Send the body of a request; then wait until the client disconnects, and end the exchange."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            upstream.leave()
            return
        body = message.get("body", b"")
        if chunked and body:
            upstream.write(b"%x\r\n%b\r\n" % (len(body), body))
        elif body:
            upstream.write(body)
        if not message.get("more_body", False):
            if chunked:
                upstream.write(b"0\r\n\r\n")
            upstream.sent = True
        await upstream.drain()


def trusting_peer(app: AsgiApp) -> AsgiApp:
    """Return an application that takes the client's address, and the name in its certificate, from headers of `Forward`.

    It is for a Unix socket in a private folder, on which only Fletcher's own processes can connect.
    """

    async def trusting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            client: tuple[str, int] | None = None
            certified: dict[str, dict[str, str]] = {}
            headers: list[tuple[bytes, bytes]] = []
            for name, value in scope["headers"]:
                if name == PEER:
                    host, _, port = value.decode("ascii").rpartition(" ")
                    client = host, int(port)
                elif name == CERTIFIED:
                    certified = {EXTENSION: {"name": value.decode("ascii")}}
                else:
                    headers.append((name, value))
            scope = {**scope, "headers": headers, "client": client, "extensions": certified}
        await app(scope, receive, send)

    return trusting


def _request_head(scope: Scope) -> tuple[bytes, bool]:
    """Return the head of a request for the engine, and whether its body is sent in chunks."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    target = scope.get("raw_path") or b"/"
    if query := scope.get("query_string"):
        target += b"?" + query
    lines = [b"%b %b HTTP/1.1\r\n" % (scope["method"].encode("ascii"), target)]
    for name, value in headers:
        if name in REQUEST_DROPS or (chunked and name == b"content-length"):
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    if client := scope.get("client"):
        lines.append(b"%b: %b %d\r\n" % (PEER, client[0].encode("ascii"), client[1]))
    if certified := scope.get("extensions", {}).get(EXTENSION):
        lines.append(b"%b: %b\r\n" % (CERTIFIED, certified["name"].encode("ascii")))
    lines.append(b"\r\n")
    return b"".join(lines), chunked


async def _refuse(scope: Scope, send: Send) -> None:
    """Answer that the engine is away."""
    error = ServiceError("the engine process is being started again: try again in a moment")
    name = REQUEST_ID.encode()
    request_id = dict(scope["headers"]).get(name, b"")
    if not PLAIN_ID.fullmatch(request_id):
        request_id = b"req-" + os.urandom(8).hex().encode()
    body = OPENAI.encode(error, request_id.decode())
    headers = [
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", RETRY_AFTER),
        (name, request_id),
    ]
    await send({"type": "http.response.start", "status": OPENAI.status(error), "headers": headers})
    await send({"type": "http.response.body", "body": body})
