"""`HttpServer`: uvicorn with the ASGI application, on its own thread. `benchmarks/http_stacks` compares it with others.

Connections with TLS are accepted here, not by uvicorn: each gets the certificate of its moment, and has a limited time for
its handshake, during which it counts as a connection.

`UvicornThread` is the part that serves connections of any origin; `fronts.connections` gives it connections that another
process has accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import ssl
import threading
from collections.abc import Callable

import uvicorn
import uvloop

from fletcher.runtime.errors import ServiceError

from ..access.addresses import url_of
from ..connection_limits import Address, ConnectionLimits
from ..tls.certificates import HANDSHAKE_SECONDS, SHUTDOWN_SECONDS, Certificates
from .call import AsgiApp
from .protocol import KEEP_ALIVE_SECONDS, Protocol

__all__ = ["HttpServer", "UvicornThread"]

logger = logging.getLogger("fletcher.serve.http")

#: Seconds that open requests may take above the time to drain, because the engine applies this time, too.
MARGIN_SECONDS = 2

#: Headers of every answer: browsers must not guess another type of content.
SECURITY_HEADERS = [("x-content-type-options", "nosniff")]

#: Seconds before connections are accepted again after an error.
RETRY_SECONDS = 0.1


class _Ticking(uvicorn.Server):
    """Server of uvicorn with an event that is set when it accepts connections, and a function that each tick calls."""

    def __init__(self, config: uvicorn.Config, on_tick: Callable[[], None] | None) -> None:
        super().__init__(config)
        self.accepting = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._call = on_tick

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and set the event."""
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.accepting.set()

    async def on_tick(self, counter: int) -> bool:
        """Do what is done ten times a second."""
        if self._call is not None:
            self._call()
        return await super().on_tick(counter)


class UvicornThread:
    """An event loop on its own thread, with uvicorn's protocol for HTTP. It is open from `start` to `stop`."""

    def __init__(
        self,
        app: AsgiApp,
        listeners: list[socket.socket],
        *,
        drain_seconds: float,
        on_tick: Callable[[], None] | None = None,
        on_end: Callable[[], None] | None = None,
        limits: ConnectionLimits | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        """Prepare the thread.

        Args:
            app: the application.
            listeners: listening sockets, which uvicorn closes; none if connections only come through `connect`.
            drain_seconds: seconds that open requests may take after `stop`.
            on_tick: called on the event loop ten times a second.
            on_end: called on the event loop when it has answered everything, to close what the application has opened on it.
            limits: limits of the connections. Default: limits that depend on the number of files that the process may open.
            certificates: certificate of the connections; None for connections without TLS. Unix sockets have no TLS.
        """
        self._limits = limits = ConnectionLimits() if limits is None else limits
        self._certificates = certificates
        self._protocol = type("LimitedProtocol", (Protocol,), {"limits": limits})
        config = uvicorn.Config(
            app,
            http=self._protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            headers=SECURITY_HEADERS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            # The engine applies the limit and answers what it drops. The limit of uvicorn cancels requests that hang.
            timeout_graceful_shutdown=math.ceil(drain_seconds) + MARGIN_SECONDS,
        )
        self._config = config
        self._server = _Ticking(config, on_tick)
        encrypted = [] if certificates is None else [one for one in listeners if one.family != socket.AF_UNIX]
        self._listeners = [one for one in listeners if one not in encrypted]
        self._encrypted = encrypted
        self._accepting: list[asyncio.Task[None]] = []
        self._on_end = on_end
        self._thread = threading.Thread(target=self._serve, name="fletcher-http", daemon=True)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, after `start`."""
        assert self._server.loop is not None
        return self._server.loop

    @property
    def open(self) -> int:
        """Number of open connections."""
        return len(self._server.server_state.connections)

    def start(self) -> None:
        """Start the thread. Return when connections are served.

        Raises:
            ServiceError: uvicorn did not start; its log has the reason.
        """
        self._thread.start()
        while not self._server.accepting.wait(0.1):
            if not self._thread.is_alive():
                raise ServiceError("the HTTP server did not start; the log has the reason")
        for listener in self._encrypted:
            self.loop.call_soon_threadsafe(self._begin_accepting, listener)

    async def connect(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere. Only the event loop calls it.

        Raises:
            OSError: the connection has broken.
        """
        loop = self.loop
        protocol = self._protocol(config=self._config, server_state=self._server.server_state, app_state={}, _loop=loop)
        if self._certificates is None or connection.family == socket.AF_UNIX:
            await loop.connect_accepted_socket(lambda: protocol, sock=connection)
        else:
            await self._shake_hands(protocol, connection, self._certificates.served.http)
        if self._server.should_exit:
            protocol.shutdown()  # the shutdown of uvicorn may have passed this connection already

    async def _shake_hands(self, protocol: Protocol, connection: socket.socket, context: ssl.SSLContext) -> None:
        """Encrypt a connection, which counts as one from now on.

        Raises:
            OSError: there are too many connections, or the handshake failed.
        """
        address: Address = connection.getpeername()[:2]
        protocol.reserved = self._limits.enter(address)
        if not protocol.reserved:
            raise ConnectionRefusedError("there are too many connections")
        try:
            await self.loop.connect_accepted_socket(
                lambda: protocol,
                sock=connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        finally:
            if protocol.transport is None:  # `connection_lost` does it for others
                self._limits.leave(address)

    def stop(self, seconds: float | None = None) -> None:
        """Close the listening sockets and idle connections, and return at once. Open requests continue.

        Args:
            seconds: seconds that open requests may take from now on. Default: `drain_seconds`.
        """
        if seconds is not None:
            self._config.timeout_graceful_shutdown = math.ceil(seconds) + MARGIN_SECONDS
        self._server.should_exit = True
        for accepting in self._accepting:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(accepting.cancel)

    def join(self) -> None:
        """Wait until all open requests are answered, or until the time limit passes."""
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        await self._server.serve(sockets=self._listeners)
        if self._on_end is not None:
            self._on_end()

    def _begin_accepting(self, listener: socket.socket) -> None:
        self._accepting.append(self.loop.create_task(self._accept(listener)))

    async def _accept(self, listener: socket.socket) -> None:
        """Accept the connections of a socket, each with its handshake in a task of its own."""
        loop = asyncio.get_running_loop()
        shaking: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # for example too many open files: the next one may succeed
                    logger.warning("a connection was not accepted", extra={"fields": {"reason": str(error)}})
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                task = loop.create_task(self._connect(connection))
                shaking.add(task)
                task.add_done_callback(shaking.discard)
        finally:
            listener.close()

    async def _connect(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.connect(connection)
        except OSError as error:
            logger.debug("a connection was closed in its handshake", extra={"fields": {"reason": str(error)}})
            connection.close()
        except asyncio.CancelledError:  # the loop ends
            connection.close()
            raise


class HttpServer:
    """HTTP server. It is open from `start` to `stop`."""

    def __init__(
        self,
        app: AsgiApp,
        listener: socket.socket,
        *,
        drain_seconds: float,
        on_end: Callable[[], None] | None = None,
        limits: ConnectionLimits | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        """Prepare the server.

        Args:
            app: the application.
            listener: a listening socket, on a port or a Unix socket; the server closes it.
            drain_seconds: seconds that open requests may take after `stop`.
            on_end: called on the event loop when everything is answered.
            limits: limits of the connections, as of `UvicornThread`.
            certificates: certificate of the connections; None for connections without TLS.
        """
        self._uvicorn = UvicornThread(
            app,
            [listener],
            drain_seconds=drain_seconds,
            on_end=on_end,
            limits=limits,
            certificates=certificates,
        )
        self.url = url_of(listener, tls=certificates is not None)

    @property
    def open(self) -> int:
        """Number of open connections."""
        return self._uvicorn.open

    def start(self) -> None:
        """Start the thread. Return when the server accepts connections.

        Raises:
            ServiceError: uvicorn did not start; its log has the reason.
        """
        self._uvicorn.start()

    def stop(self, seconds: float | None = None) -> None:
        """Close the listening socket and idle connections, and return at once. Open requests continue.

        Args:
            seconds: seconds that open requests may take from now on. Default: `drain_seconds`.
        """
        self._uvicorn.stop(seconds)

    def join(self) -> None:
        """Wait until all open requests are answered, or until the time limit passes."""
        self._uvicorn.join()
