"""`Protocol`: uvicorn's protocol of one HTTP/1.1 connection, with what it lacks.

- A new connection must send the head of its first request in time.
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
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["HEADER_SECONDS", "KEEP_ALIVE_SECONDS", "Protocol"]

#: Seconds that an idle connection stays open: longer than the usual minute of load balancers, so that the balancer closes it.
KEEP_ALIVE_SECONDS: Final = 75

#: Seconds in which a new connection must send the head of its first request.
HEADER_SECONDS: Final = 30.0

#: Answer to bytes that are not HTTP, which is uvicorn's.
INVALID: Final = "Invalid HTTP request received."

#: Headers that say where a message ends.
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class Protocol(HttpToolsProtocol):
    """Protocol of a connection. uvicorn makes one for each connection that it accepts."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the connection."""
        super().connection_made(transport)
        self._earlier: list[RequestResponseCycle] = []  # requests that others of this connection wait for
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._check_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers of the connection, each of which would keep it alive, and end its requests."""
        super().connection_lost(exc)
        for cycle in self._earlier:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._earlier.clear()
        self._head_timer.cancel()
        self._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        """Begin a request, or let it wait for the one before."""
        before = self.cycle
        super().on_headers_complete()
        if before is not None and not before.response_complete:
            self._earlier = [cycle for cycle in self._earlier if not cycle.response_complete]
            self._earlier.append(before)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, as uvicorn does, but read on behind an offer to upgrade."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.scope["method"] == "CONNECT":
                    return  # what follows is not HTTP
                data = self._ignore_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self.logger.warning(INVALID)
                self.send_400_response(INVALID)
                return

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

    def _check_head(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


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
