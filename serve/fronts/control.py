"""Control sockets: the transport of the messages between the supervisor and its children.

Each child has one end of a pair of Unix stream sockets. A message is one line of JSON; its field `type` names it. The message
`connection` travels with one descriptor. Descriptors arrive in the order of their messages, and never after them.

A child uses `Control`, which `child.py` makes. A front, for example:

    connections = PassedConnections(
        app, drain_seconds=..., on_counts=lambda begun, closed: control.send(Connections(begun, closed))
    )
    connections.start()
    control.answer_pings_on(connections.loop)
    control.send(Ready())
    for command in control.commands():
        match command:
            case socket.socket():
                connections.add(command)
            case Reload():
                control.send(Reloaded(error=...))
            case Stop():
                connections.stop()
                return connections.join()

The end of the socket means that the supervisor has ended; then `child.py` ends the process.
"""

from __future__ import annotations

import array
import asyncio
import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from fletcher.runtime.errors import ServiceError

from .config import ProcessConfig
from .messages import Connection, Leave, Ping, Pong, Received, Reload, Report, Stop, ToChild

__all__ = ["Channel", "Command", "Control"]

#: Bytes of one read. A message has some dozen bytes, the configuration some thousand.
READ_BYTES: Final = 1 << 16

#: Descriptors that one read may bring. Linux never joins two messages that have descriptors.
READ_DESCRIPTORS: Final = 16


#: A command as `Control.commands` yields it.
Command = socket.socket | Reload | Leave | Stop

_encoder = msgspec.json.Encoder()
_to_child: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)
_report: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


class Channel:
    """The supervisor's end of a control socket. It never blocks. One thread uses it.

    Attributes:
        ended: whether the child has closed its end.
        backlog: bytes that wait until the socket takes them.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._lines = _Lines(connection)
        self.ended = False
        self.backlog = bytearray()

    def fileno(self) -> int:
        """Return the descriptor of the socket, for a selector."""
        return self._socket.fileno()

    def send(self, message: ToChild) -> None:
        """Send a message, now or when `flush` finds room for it."""
        self.backlog += _line(message)
        self.flush()

    def offer(self, connection: socket.socket) -> bool:
        """Pass a connection, if the socket takes it now. The caller still has to close its own descriptor.

        Returns:
            Whether the connection was passed.
        """
        if self.backlog or self.ended:
            return False
        line = _line(Connection())
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connection.fileno()]))]
        try:
            sent = self._socket.sendmsg([line], rights)
        except BlockingIOError:
            return False
        except OSError:  # the child has ended; what it wrote is still to be read
            return False
        self.backlog += line[sent:]
        return True

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        try:
            while self.backlog:
                del self.backlog[: self._socket.send(self.backlog)]
        except BlockingIOError:
            return
        except OSError:  # the child has ended; `receive` reports it
            self.backlog.clear()

    def receive(self) -> Iterator[Report]:
        """Yield the messages that have arrived.

        Raises:
            msgspec.DecodeError: the child sent something else.
        """
        while not self.ended:
            try:
                lines = self._lines.read()
            except BlockingIOError:
                return
            if lines is None:
                self.ended = True
                return
            for line in lines:
                yield _report.decode(line)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Control:
    """A child's end of its control socket. Any thread may send."""

    def __init__(self, connection: socket.socket) -> None:
        """Take the socket.

        Args:
            connection: the child's end; `Control` closes it.
        """
        connection.set_inheritable(False)
        self._socket = connection
        self._lines = _Lines(connection)
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._received = 0
        self._sending = threading.Lock()
        self._writer = threading.Thread(target=self._write, name="fletcher-control-write", daemon=True)

    def start(self, on_end: Callable[[ProcessConfig], None]) -> ProcessConfig | None:
        """Wait for the configuration, and then read commands in a thread.

        Args:
            on_end: called by that thread with the configuration when the supervisor has ended.

        Returns:
            The configuration; None if the supervisor has ended.
        """
        messages: deque[ToChild] = deque()
        while not messages:
            lines = self._lines.read()
            if lines is None:
                return None
            messages.extend(_to_child.decode(line) for line in lines)
        config = messages.popleft()
        if not isinstance(config, ProcessConfig):
            raise ServiceError(f"the first message of the supervisor is {type(config).__name__}, not a configuration")
        self._writer.start()
        for message in messages:
            self._take(message)
        reader = threading.Thread(target=self._read, args=(config, on_end), name="fletcher-control-read", daemon=True)
        reader.start()
        return config

    def answer_pings_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer pings from an event loop from now on, so that a loop that hangs answers none.

        Before, and without this call, the thread that reads commands answers them.
        """
        self._loop = loop

    def commands(self) -> Iterator[Command]:
        """Yield commands as they arrive, until `end_commands`."""
        while (command := self._commands.get()) is not None:
            yield command

    def end_commands(self) -> None:
        """Let `commands` end after the commands that have arrived. Any thread may call it."""
        self._commands.put(None)

    def send(self, report: Report) -> None:
        """Send a message to the supervisor. It does not wait."""
        self._outgoing.put(_line(report))

    def close(self) -> None:
        """Send what waits; nothing can be sent afterwards. The thread that reads goes on."""
        self._outgoing.put(None)
        self._writer.join()

    def _read(self, config: ProcessConfig, on_end: Callable[[ProcessConfig], None]) -> None:
        while (lines := self._lines.read()) is not None:
            for line in lines:
                self._take(_to_child.decode(line))
        on_end(config)

    def _take(self, message: ToChild) -> None:
        match message:
            case Connection():
                connection = socket.socket(fileno=self._lines.descriptors.popleft())
                # At once, before anything is read from the connection: until this message has left, the supervisor may pass
                # the connection to another front.
                self._received += 1
                self._send_now(_line(Received(self._received)))
                self._commands.put(connection)
            case Ping():
                try:
                    if self._loop is not None:
                        self._loop.call_soon_threadsafe(self.send, Pong())
                        return
                except RuntimeError:  # the loop is closed: the child ends
                    pass
                self.send(Pong())
            case Reload() | Leave() | Stop():
                self._commands.put(message)

    def _write(self) -> None:
        while (line := self._outgoing.get()) is not None:
            self._send_now(line)

    def _send_now(self, line: bytes) -> None:
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError:
            return  # the supervisor has ended; the thread that reads notices it


class _Lines:
    """Lines and descriptors that arrive on a socket.

    Attributes:
        descriptors: descriptors that have arrived and are not yet taken.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = bytearray()
        self.descriptors: deque[int] = deque()

    def read(self) -> list[bytes] | None:
        """Read once.

        Returns:
            The lines that are complete now; None at the end of the socket.

        Raises:
            BlockingIOError: the socket does not block, and nothing is there.
        """
        space = socket.CMSG_SPACE(READ_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(READ_BYTES, space, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        except BlockingIOError:
            raise
        except OSError:  # the other side has ended without reading everything
            return None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                for number in numbers:
                    os.set_inheritable(number, False)
                self.descriptors.extend(numbers)
        if not data:
            return None
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        return [bytes(line) for line in lines]


def _line(message: ToChild | Report) -> bytes:
    return _encoder.encode(message) + b"\n"
