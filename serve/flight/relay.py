"""`FlightRelay`: passes the bytes of Flight connections to Flight servers on Unix sockets, in turn.

gRPC neither takes an accepted socket nor, in Arrow's build, shares a port among processes, so the supervisor accepts the
connections and copies their bytes. It looks at none of them. Each connection to a front comes from a Unix socket whose name
holds the client's address; `peer_of` in serve/flight/middleware.py reads it.

The relay also ends TLS, because the certificate of a Flight server of Arrow is fixed at its start. So a server of one
process has a relay, too, if it has TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvloop

from ..connection_limits import ConnectionLimits
from ..tls.certificates import HANDSHAKE_SECONDS, SHUTDOWN_SECONDS, Certificates
from ..tls.names import client_name
from .peers import certificate_file, peer_name

__all__ = ["FlightRelay"]

logger = logging.getLogger("fletcher.serve.fronts")


class _End(asyncio.Protocol):
    """One end of a relayed connection: what it reads is written to the other end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._other: _End | None = None
        self._early: list[bytes] = []
        self._ended = False
        self.on_end: Callable[[], None] = _nothing
        self.leave: Callable[[], None] = _nothing

    def forget(self) -> None:
        """Give the place of a client's connection back, once."""
        leave, self.leave = self.leave, _nothing
        leave()

    def join(self, other: _End) -> None:
        """Connect two open ends, and pass on what each has read already."""
        self._other, other._other = other, self
        for end in (self, other):
            for data in end._early:
                end.data_received(data)
            end._early.clear()
            if end._ended:
                end.eof_received()
            if end.transport is None:
                end.connection_lost(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport  # type: ignore[assignment]  # a stream socket has a `Transport`

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        if self._other is None:
            self._early.append(data)
        elif self._other.transport is not None:
            self._other.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; the other direction stays open until it ends, too."""
        self._ended = True
        if self._other is not None and self._other._ended:
            for end in (self, self._other):
                if end.transport is not None:
                    end.transport.close()
        elif self._other is not None and self._other.transport is not None and self._other.transport.can_write_eof():
            self._other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end after what was written to it."""
        self.transport = None
        self.on_end()
        self.forget()
        if self._other is not None and self._other.transport is not None:
            self._other.transport.close()

    def pause_writing(self) -> None:
        """Stop reading at the other end: this end's peer is slow."""
        if self._other is not None and self._other.transport is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Read at the other end again."""
        if self._other is not None and self._other.transport is not None:
            self._other.transport.resume_reading()


class FlightRelay:
    """Relays connections on a thread of its own. It is open from `start` to `stop`."""

    def __init__(
        self,
        listener: socket.socket,
        folder: Path,
        choose: Callable[[], str | None],
        certificates: Certificates | None = None,
        *,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """Prepare the relay.

        Args:
            listener: the listening socket; the relay closes it.
            folder: private folder for the names of its sockets.
            choose: returns the Unix socket of the front that gets the next connection; None if no front is ready. It runs
                on the relay's thread.
            certificates: certificate of the connections; None for connections without TLS.
            limits: limits of the clients' connections. Default: each takes two descriptors, and all together take at most
                half of those that HTTP may use, one address a quarter, so that Flight cannot keep HTTP from accepting.
        """
        self._limits = ConnectionLimits(max(ConnectionLimits().most // 4, 2)) if limits is None else limits
        self._certificates = certificates
        self._listener = listener
        self._folder = folder
        self._choose = choose
        self._numbers = itertools.count()
        self._loop = uvloop.new_event_loop()
        self._open: set[_End] = set()
        self._thread = threading.Thread(target=self._run, name="fletcher-flight-relay", daemon=True)

    def start(self) -> None:
        """Accept connections."""
        self._listener.setblocking(False)
        self._accepting = self._loop.create_task(self._accept())
        self._thread.start()

    def close_listener(self) -> None:
        """Accept nothing more; open connections stay."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._accepting.cancel)

    def stop(self) -> None:
        """Close every connection, and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        else:
            self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._accepting.cancel()
        for end in [*self._open]:
            if end.transport is not None:
                end.transport.abort()
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._accepting)
        self._loop.close()

    async def _accept(self) -> None:
        relays: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    connection, address = await self._loop.sock_accept(self._listener)
                except OSError as error:  # for example too many open files: the next one may succeed
                    logger.warning("a Flight connection was not accepted", extra={"fields": {"reason": str(error)}})
                    await asyncio.sleep(0.1)
                    continue
                if not self._limits.enter(address[:2]):
                    logger.info("a Flight connection was closed", extra={"fields": {"reason": "there are too many"}})
                    connection.close()
                    continue
                task = self._loop.create_task(self._relay(connection, address[:2]))
                relays.add(task)
                task.add_done_callback(relays.discard)
        finally:
            self._listener.close()

    async def _relay(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Connect one client to a front; close the connection if that fails, and gRPC's client tries again."""
        client, front = _End(), _End()
        client.leave = partial(self._limits.leave, address)
        inner = None
        number = next(self._numbers)
        try:
            await self._greet(client, connection, number)
            path = self._choose()
            if path is None:
                raise ConnectionRefusedError("no front is ready")
            inner = self._connect(path, str(address[0]), number)
            await self._loop.create_unix_connection(lambda: front, sock=inner)
        except OSError as error:
            logger.info("a Flight connection was closed", extra={"fields": {"reason": str(error)}})
            if client.transport is not None:
                client.transport.abort()
            client.forget()  # if its connection was never made
            connection.close()
            if inner is not None:
                inner.close()
            return
        client.join(front)
        self._open |= {client, front}
        self._open = {end for end in self._open if end.transport is not None}

    async def _greet(self, client: _End, connection: socket.socket, number: int) -> None:
        """Begin to read from a client, after the handshake of TLS. The name in its certificate goes into a file.

        Raises:
            OSError: the connection has broken, or the handshake failed.
        """
        if self._certificates is None:
            await self._loop.connect_accepted_socket(lambda: client, connection)
            return
        served = self._certificates.served
        await self._loop.connect_accepted_socket(
            lambda: client,
            connection,
            ssl=served.flight,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
        if client.transport is None:
            return  # the client has left, so that `join` closes the other end
        encrypted: ssl.SSLObject = client.transport.get_extra_info("ssl_object")
        if encrypted.selected_alpn_protocol() is None:
            raise ConnectionAbortedError("the client does not offer HTTP/2 (ALPN h2)")
        if served.clients and (name := client_name(encrypted.getpeercert())) is not None:
            file = certificate_file(self._folder, number)
            file.write_text(name, encoding="ascii")
            client.on_end = lambda: file.unlink(missing_ok=True)
            if client.transport is None:
                client.on_end()

    def _connect(self, path: str, host: str, number: int) -> socket.socket:
        """Return a socket that is connected to a front, and whose own name holds the client's address."""
        name = self._folder / peer_name(host, number)
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        inner.setblocking(False)  # first: a front that hangs accepts nothing, and the loop must not wait for it
        try:
            inner.bind(str(name))
            inner.connect(path)
        except OSError:
            inner.close()
            raise
        finally:
            name.unlink(missing_ok=True)
        return inner


def _nothing() -> None:
    """Do nothing."""
