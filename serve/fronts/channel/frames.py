"""`FrameProtocol`: frames over a stream socket on an asyncio loop. It knows bytes, not the purpose of the messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from .wire import PREFIX, Frame, Message, ProtocolError, decode_header, read_prefix

__all__ = ["FrameProtocol"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Bytes of the buffer that frames are read into. A payload that does not fit gets memory of its own, which is filled by the
#: socket directly; a smaller one is copied out of the buffer, which costs less than a new buffer.
BUFFER: Final = 1 << 17

#: Bytes that wait for the other end to read; above it the channel is congested.
MAX_WAITING: Final = 1 << 24


class FrameProtocol(asyncio.BufferedProtocol):
    """One end of a channel. All methods run on the loop's thread.

    Attributes:
        transport: the open connection, or None.
        congested: whether more than `MAX_WAITING` bytes wait for the other end to read.
    """

    def __init__(
        self,
        on_frame: Callable[[Message, memoryview], None],
        on_end: Callable[[], None],
        on_begin: Callable[[], None] = lambda: None,
        on_congestion: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the end of a channel.

        Args:
            on_frame: receives each message and its payload, whose memory belongs to the receiver.
            on_end: called when the connection has ended.
            on_begin: called when the connection is open.
            on_congestion: called when `congested` has changed.
        """
        self.transport: asyncio.Transport | None = None
        self.congested = False
        self._on_frame = on_frame
        self._on_end = on_end
        self._on_begin = on_begin
        self._on_congestion = on_congestion
        self._buffer = memoryview(bytearray(BUFFER))
        self._filled = 0
        self._message: Message | None = None  # the one whose payload is being read into `_payload`
        self._payload = memoryview(b"")
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # a stream socket has a `Transport`
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=MAX_WAITING)
        self._on_begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self.transport = None
        self._on_end()

    def pause_writing(self) -> None:
        """Note that the other end reads too slowly."""
        self.congested = True
        self._on_congestion()

    def resume_writing(self) -> None:
        """Note that the other end has read most of what waited."""
        self.congested = False
        self._on_congestion()

    def write(self, frames: Sequence[Frame]) -> None:
        """Write frames with as few system calls as the socket allows. Do nothing after the connection has ended."""
        if self.transport is not None:
            self.transport.writelines([part for frame in frames for part in frame])

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory for the next bytes."""
        if self._message is not None:
            return self._payload[self._received :]
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over every frame that is complete."""
        if self._message is not None:
            self._received += nbytes
            if self._received == len(self._payload):
                message, self._message = self._message, None
                self._on_frame(message, self._payload)
            return
        self._filled += nbytes
        try:
            self._take_frames()
        except ProtocolError:
            logger.exception("a channel between front and engine is closed")
            if self.transport is not None:
                self.transport.abort()

    def _take_frames(self) -> None:
        start, filled, buffer = 0, self._filled, self._buffer
        while filled - start >= PREFIX.size:
            header, gap, payload = read_prefix(buffer[start : start + PREFIX.size])
            body = start + PREFIX.size + header + gap
            if body > filled:
                if body - start > len(buffer):  # a header that is larger than the buffer, such as a long catalog
                    self._grow(start, body - start)
                    return
                break
            end = body + payload
            if end > filled:
                if end - start > len(buffer):
                    self._begin_payload(decode_header(buffer[start + PREFIX.size : body - gap]), body, payload)
                    return
                break
            message = decode_header(buffer[start + PREFIX.size : body - gap])
            self._on_frame(message, memoryview(bytes(buffer[body:end])))
            start = end
        self._filled = filled - start
        if start and self._filled:
            buffer[: self._filled] = bytes(buffer[start:filled])

    def _begin_payload(self, message: Message, body: int, size: int) -> None:
        """Read the rest of a payload into memory of its own."""
        self._payload = np.empty(size, np.uint8).data
        self._received = self._filled - body
        self._payload[: self._received] = self._buffer[body : self._filled]
        self._message = message
        self._filled = 0

    def _grow(self, start: int, size: int) -> None:
        """Move the beginning of a frame to a buffer that holds its header."""
        grown = memoryview(bytearray(size + BUFFER))
        self._filled -= start
        grown[: self._filled] = self._buffer[start : start + self._filled]
        self._buffer = grown
