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

import httptools

from fletcher.runtime.errors import ServiceError

from ..http.bridge import Receive
from ..http.call import JSON, AsgiApp, Scope, Send
from ..http.errors import OPENAI
from ..request_headers import PLAIN_ID, REQUEST_ID

__all__ = ["PEER", "Forward", "trusting_peer"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Header with the client's address, `HOST PORT`, from a front to the engine.
PEER: Final = b"x-fletcher-peer"

#: Headers of one connection, which do not belong to the other one (RFC 9110, section 7.6.1), and the peer that a client
#: invents. uvicorn answers `expect` itself.
REQUEST_DROPS: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"transfer-encoding", b"expect", PEER}
)

#: The same for answers. uvicorn adds its own date.
ANSWER_DROPS: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date"})

#: Idle connections that are kept, and the seconds for which they are kept: fewer than the engine's (`KEEP_ALIVE_SECONDS`), so
#: that the engine does not close a connection at the moment of its next use.
MAX_IDLE: Final = 32
IDLE_SECONDS: Final = 30.0

#: Bytes of an answer that wait for a slow client before the engine is slowed down.
HIGH_WATER: Final = 1 << 18

#: Seconds after which a client may try again while the engine is started again.
RETRY_AFTER: Final = b"1"


class _AwayError(Exception):
    """The engine closed the connection, or cannot be reached.

    Attributes:
        stale: whether an idle connection was closed before anything of the answer arrived.
    """

    def __init__(self, *, stale: bool) -> None:
        super().__init__()
        self.stale = stale


class _LeftError(Exception):
    """The client has disconnected."""


class Forward:
    """ASGI application over an HTTP application on a Unix socket. It runs on one event loop."""

    def __init__(self, path: str) -> None:
        """Prepare the application; connections are opened when they are needed.

        Args:
            path: path of the Unix socket.
        """
        self._path = path
        self._idle: list[_Upstream] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        head, chunked = _request_head(scope)
        # A request without a body may be sent twice; the body of another one is gone with the first attempt.
        empty = not chunked and not any(name == b"content-length" and value != b"0" for name, value in scope["headers"])
        upstream: _Upstream | None = None
        try:
            while True:
                try:
                    upstream = await self._open()
                    await self._exchange(upstream, (head, chunked), scope, receive, send)
                    return
                except _AwayError as error:
                    if not (error.stale and empty):
                        raise
        except _AwayError:
            if upstream is not None and upstream.begun:
                logger.warning("the engine process ended in the middle of an answer")
                return  # uvicorn closes a connection whose answer is incomplete
            await _refuse(scope, send)
        except _LeftError:
            return

    def close(self) -> None:
        """Close idle connections. Only the event loop calls it."""
        for upstream in self._idle:
            upstream.close()
        self._idle.clear()

    async def _open(self) -> _Upstream:
        """Return a connection to the engine.

        Raises:
            _AwayError: the engine does not listen.
        """
        now = asyncio.get_running_loop().time()
        while self._idle:
            upstream = self._idle.pop()
            if not upstream.lost and now - upstream.idle_since < IDLE_SECONDS:
                return upstream
            upstream.close()
        try:
            _, upstream = await asyncio.get_running_loop().create_unix_connection(_Upstream, self._path)
        except OSError:
            raise _AwayError(stale=False) from None
        return upstream

    async def _exchange(
        self, upstream: _Upstream, request: tuple[bytes, bool], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send a request and pass its answer back. The connection is kept for the next request if it can be.

        Raises:
            _AwayError: the engine closed the connection.
            _LeftError: the client has disconnected.
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


async def _upload(upstream: _Upstream, receive: Receive, *, chunked: bool) -> None:
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


class _Upstream(asyncio.Protocol):
    """A connection to the engine, and the answer that arrives on it.

    Attributes:
        lost: whether the connection has ended.
        idle_since: time of the loop at which the last answer was complete; 0 before.
        status: status of the answer.
        headers: headers of the answer, names in lower case.
        begun: whether the answer was begun towards the client.
        sent: whether the whole request was sent.
        reusable: whether the engine keeps the connection after the answer.
    """

    def __init__(self) -> None:
        self.lost = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._arrived = asyncio.Event()
        self.begin(bodiless=False)

    def begin(self, *, bodiless: bool) -> None:
        """Prepare for an answer.

        Args:
            bodiless: whether the answer ends with its headers, whatever they say.
        """
        # The parser does not know to which request an answer belongs, so that it would wait for the body after HEAD: each
        # answer gets another parser.
        self._parser = httptools.HttpResponseParser(self)
        self._bodiless = bodiless
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = self.sent = self.reusable = False
        self._headed = self._complete = self._left = self._paused = False
        self._parts: list[bytes] = []
        self._size = 0
        self._arrived.clear()

    async def head(self) -> None:
        """Wait for the head of the answer.

        Raises:
            _AwayError: the engine closed the connection.
            _LeftError: the client has disconnected.
        """
        while not self._headed:
            await self._wait()

    async def part(self) -> tuple[bytes, bool]:
        """Wait for a part of the body.

        Returns:
            The part, and whether more follows.

        Raises:
            As `head`.
        """
        while not self._parts and not self._complete:
            await self._wait()
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return part, not self._complete

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the engine has taken most of what was written."""
        await self._writable.wait()

    def leave(self) -> None:
        """End the exchange because the client has disconnected."""
        self._left = True
        self.close()
        self._arrived.set()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        self._arrived.clear()
        if self._left:
            raise _LeftError
        if self.lost:
            # A connection that was never used is not stale: the engine ended while it computed.
            raise _AwayError(stale=self.idle_since > 0 and not self._headed)
        await self._arrived.wait()

    # asyncio.Protocol ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the transport."""
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Wake everyone who waits."""
        self.lost = True
        self._writable.set()
        self._arrived.set()

    def pause_writing(self) -> None:
        """Let `drain` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `drain` continue."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse a piece of the answer."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            logger.exception("the engine's answer is not HTTP")
            self.close()

    # httptools.HttpResponseParser ---------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body are ignored."""
        if not self._headed:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the end of the head; an interim answer is ignored."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()
            return
        self.status = status
        self._headed = True
        self.reusable = self._parser.should_keep_alive()
        if self._bodiless or status in (204, 304):
            self.reusable = not any(name == b"connection" and value.lower() == b"close" for name, value in self.headers)
            self._complete = True
        self._arrived.set()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._complete:
            return
        self._parts.append(body)
        self._size += len(body)
        if self._size > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._arrived.set()

    def on_message_complete(self) -> None:
        """Take the end of the answer."""
        if self._headed:
            self._complete = True
            self._arrived.set()


def trusting_peer(app: AsgiApp) -> AsgiApp:
    """Return an application that takes the client's address from the header of `Forward`.

    It is for a Unix socket in a private folder, on which only Fletcher's own processes can connect.
    """

    async def trusting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            client: tuple[str, int] | None = None
            headers: list[tuple[bytes, bytes]] = []
            for name, value in scope["headers"]:
                if name == PEER:
                    host, _, port = value.decode("ascii").rpartition(" ")
                    client = host, int(port)
                else:
                    headers.append((name, value))
            scope = {**scope, "headers": headers, "client": client}
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
