"""`Protocol`: uvicorn's protocol of one HTTP/1.1 connection, with what it lacks.

- The head of a request must arrive in time and within a number of bytes; so must what follows the last byte of a body.
- Requests that are sent before earlier ones are answered wait unparsed, beyond a few.
- A client that does not read its answer loses the connection.
- A process has a largest number of connections, of all clients and of one address.
- The name in a client's certificate is in the scope of its requests.
- An offer to upgrade the protocol is ignored, and the body is read (RFC 9110, section 7.8). Every client on the JDK's
  `java.net.http.HttpClient` offers HTTP/2 in this way. httptools ends a message at the head that has such an offer.
- A connection that its client resets leaves nothing behind. uvicorn cancels the timer of an idle connection only after a
  regular end, so that the timer keeps the connection with its last request for `KEEP_ALIVE_SECONDS`.
- A client that sends several requests at once and leaves ends all of them. uvicorn ends only the last one, so that the one
  that is computed goes on, and fails when it writes to the closed connection.
"""

from __future__ import annotations

import asyncio
from typing import Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..connection_limits import ConnectionLimits
from ..tls.names import EXTENSION, client_name

__all__ = ["HEADER_SECONDS", "HEAD_BYTES", "KEEP_ALIVE_SECONDS", "Protocol"]

#: Seconds that an idle connection stays open: longer than the usual minute of load balancers, so that the balancer closes it.
KEEP_ALIVE_SECONDS: Final = 75

#: Seconds in which the head of a request must arrive, counted from its first byte; for the first one, from the connection.
HEADER_SECONDS: Final = 30.0

#: Largest head of a request in bytes: its line, all headers, and the trailers behind a body. Proxies allow 8 to 32 KiB.
HEAD_BYTES: Final = 32 << 10

#: Bytes that are parsed at a time. A head can be longer than its limit by so much.
STEP_BYTES: Final = 16 << 10

#: Requests of a connection that are parsed while an earlier one is answered. What follows them waits as bytes.
PIPELINE: Final = 16

#: Seconds in which a client must read something of its answer.
UNREAD_SECONDS: Final = 60.0

#: Answer to bytes that are not HTTP, which is uvicorn's.
INVALID: Final = "Invalid HTTP request received."

#: Versions that are answered.
VERSIONS: Final = frozenset({"1.0", "1.1"})

#: Headers that say where a message ends.
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class _Flow(FlowControl):
    """Flow control of a connection whose reading can be stopped until everything that was read is parsed."""

    stopped = False

    def resume_reading(self) -> None:
        """Read again, unless reading is stopped. uvicorn calls this whenever it waits for a body."""
        if not self.stopped:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """Protocol of a connection. uvicorn makes one for each connection that it accepts.

    Attributes:
        limits: limits of the connections of the server.
    """

    limits = ConnectionLimits()

    #: True if the connection was counted before its handshake.
    reserved = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the connection, or close it if there are too many."""
        super().connection_made(transport)
        self._earlier: list[RequestResponseCycle] = []  # requests that others of this connection wait for
        self.flow: _Flow = _Flow(transport)
        self._framing_bytes = 0
        self._in_head = False
        self._unparsed = b""
        self._unread_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEADER_SECONDS, self._close)
        self._counted = self.reserved or self.limits.enter(self.client)
        self._certificate = _certificate_of(transport)
        if not self._counted:
            self.logger.warning("A connection was closed, because there are too many.")
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers of the connection, each of which would keep it alive, and end its requests."""
        super().connection_lost(exc)
        for cycle in self._earlier:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._earlier.clear()
        self._unparsed = b""
        if self._counted:
            self.limits.leave(self.client)
        for timer in (self._head_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, as uvicorn does, but in steps, and read on behind an offer to upgrade."""
        if self._unparsed:
            self._unparsed += data  # of the read that was under way when reading stopped
            return
        self._unset_keepalive_if_required()
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            if len(self.pipeline) >= PIPELINE:
                self._unparsed = data
                self.flow.pause_reading()
                self.flow.stopped = True
                return
            step, data = (data, b"") if len(data) <= STEP_BYTES else (data[:STEP_BYTES], data[STEP_BYTES:])
            try:
                self.parser.feed_data(step)
            except httptools.HttpParserUpgrade as upgrade:
                if self.scope["method"] == "CONNECT":
                    return  # what follows is not HTTP
                data = self._ignore_upgrade() + step[upgrade.args[0] :] + data
            except httptools.HttpParserError:
                self.logger.warning(INVALID)
                self.send_400_response(INVALID)
                return
            self._framing_bytes += len(step)
            if self._framing_bytes > HEAD_BYTES:
                self._refuse_head()
                return
        waits = self._in_head or (self.cycle is not None and self.cycle.response_complete)
        if waits and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self._close)

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True
        self._framing_bytes = 0
        if self._certificate is not None:
            self.scope["extensions"] = {EXTENSION: {"name": self._certificate}}

    def on_headers_complete(self) -> None:
        """Begin a request, or let it wait for the one before.

        Raises:
            ValueError: the request has no `Host` or several (RFC 9112 section 3.2), or is of another version. The parser
                makes of it an error as of any other malformed request.
        """
        self._in_head = False
        names, version = [name for name, _ in self.headers], self.parser.get_http_version()
        if names.count(b"host") != 1 and (version != "1.0" or b"host" in names):
            raise ValueError("a request needs one Host")
        if version not in VERSIONS:
            raise ValueError("the version of HTTP is neither 1.0 nor 1.1")
        self._framing_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        before = self.cycle
        super().on_headers_complete()
        if before is not None and not before.response_complete:
            self._earlier = [cycle for cycle in self._earlier if not cycle.response_complete]
            self._earlier.append(before)

    def on_body(self, body: bytes) -> None:
        """Take bytes of a body. What comes between or behind them, chunk extensions and trailers, counts as a head does."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Parse what waits, when the requests before it have become few."""
        super().on_response_complete()
        if self._unparsed and len(self.pipeline) < PIPELINE // 2 and not self.transport.is_closing():
            data, self._unparsed = self._unparsed, b""
            self.flow.stopped = False
            self._unset_keepalive_if_required()
            self._parse(data)
            if not self._unparsed:
                self.flow.resume_reading()

    def pause_writing(self) -> None:
        """Watch whether the client reads, while much of an answer waits for it."""
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self._check_unread, self._left())

    def resume_writing(self) -> None:
        """End the watch: the client has read most of what waited."""
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _left(self) -> int:
        return self.transport.get_write_buffer_size()

    def _check_unread(self, before: int) -> None:
        """Drop a client that has read nothing since the last check."""
        left = self._left()
        if left >= before:
            self.transport.abort()
        else:
            self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self._check_unread, left)

    def _refuse_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # trailers of a request, or a head behind one that is not answered yet
            return
        body = b"the head of the request has too many bytes"
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    def _ignore_upgrade(self) -> bytes:
        """Let another parser read the body of the request whose head has just been parsed.

        Returns:
            The head that this parser must be fed first: it has the length of the body, and `_Body` drops it.
        """
        self.parser = httptools.HttpRequestParser(_Body(self))
        # The first parser took the end of the head for the end of the message. The application has not run since then.
        self.cycle.more_body = True
        self.cycle.message_event.clear()
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING]
        return b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines)

    def _close(self) -> None:
        """Close the connection: a head did not arrive in time."""
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


def _certificate_of(transport: asyncio.Transport) -> str | None:
    """Return the name in the client's certificate; None without one."""
    connection = transport.get_extra_info("ssl_object")
    return None if connection is None else client_name(connection.getpeercert())


class _Body:
    """Callbacks of a parser that begins with the body of a request: its first head is dropped, all else is passed on."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._heads = 0

    def on_message_begin(self) -> None:
        self._heads += 1
        if self._heads > 1:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._heads > 1:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._heads > 1:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._heads > 1:
            self._protocol.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        self._protocol.on_message_complete()
