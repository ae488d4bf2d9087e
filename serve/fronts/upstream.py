"""`Upstream`: a connection of a front to the engine's HTTP application, and the answers that arrive on it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import httptools

__all__ = ["AwayError", "LeftError", "Upstream"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Bytes of an answer that wait for a slow client before the engine is slowed down.
HIGH_WATER: Final = 1 << 18


class AwayError(Exception):
    """The engine closed the connection, or cannot be reached.

    Attributes:
        stale: whether an idle connection was closed before anything of the answer arrived.
    """

    def __init__(self, *, stale: bool) -> None:
        super().__init__()
        self.stale = stale


class LeftError(Exception):
    """The client has disconnected."""


class Upstream(asyncio.Protocol):
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
            AwayError: the engine closed the connection.
            LeftError: the client has disconnected.
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
            raise LeftError
        if self.lost:
            # A connection that was never used is not stale: the engine ended while it computed.
            raise AwayError(stale=self.idle_since > 0 and not self._headed)
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
