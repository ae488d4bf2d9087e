"""`HttpServer`: uvicorn with the ASGI application, on its own thread. `benchmarks/http_stacks` compares it with others.

`UvicornThread` is the part that serves connections of any origin; `fronts.connections` gives it connections that another
process has accepted.
"""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable

import uvicorn
import uvloop

from fletcher.runtime.errors import ServiceError

from ..access.addresses import url_of
from ..connection_limits import ConnectionLimits
from .call import AsgiApp
from .protocol import KEEP_ALIVE_SECONDS, Protocol

__all__ = ["HttpServer", "UvicornThread"]


#: Seconds that open requests may take above the time to drain, because the engine applies this time, too.
MARGIN_SECONDS = 2


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
    ) -> None:
        """Prepare the thread.

        Args:
            app: the application.
            listeners: listening sockets, which uvicorn closes; none if connections only come through `connect`.
            drain_seconds: seconds that open requests may take after `stop`.
            on_tick: called on the event loop ten times a second.
            on_end: called on the event loop when it has answered everything, to close what the application has opened on it.
            limits: limits of the connections. Default: limits that depend on the number of files that the process may open.
        """
        limits = ConnectionLimits() if limits is None else limits
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
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            # The engine applies the limit and answers what it drops. The limit of uvicorn cancels requests that hang.
            timeout_graceful_shutdown=math.ceil(drain_seconds) + MARGIN_SECONDS,
        )
        self._config = config
        self._server = _Ticking(config, on_tick)
        self._listeners = listeners
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

    async def connect(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere. Only the event loop calls it.

        Raises:
            OSError: the connection has broken.
        """
        loop = self.loop
        _, protocol = await loop.connect_accepted_socket(
            lambda: self._protocol(
                config=self._config, server_state=self._server.server_state, app_state={}, _loop=loop
            ),
            sock=connection,
        )
        if self._server.should_exit:
            protocol.shutdown()  # the shutdown of uvicorn may have passed this connection already

    def stop(self, seconds: float | None = None) -> None:
        """Close the listening sockets and idle connections, and return at once. Open requests continue.

        Args:
            seconds: seconds that open requests may take from now on. Default: `drain_seconds`.
        """
        if seconds is not None:
            self._config.timeout_graceful_shutdown = math.ceil(seconds) + MARGIN_SECONDS
        self._server.should_exit = True

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
    ) -> None:
        """Prepare the server.

        Args:
            app: the application.
            listener: a listening socket, on a port or a Unix socket; the server closes it.
            drain_seconds: seconds that open requests may take after `stop`.
            on_end: called on the event loop when everything is answered.
            limits: limits of the connections, as of `UvicornThread`.
        """
        self._uvicorn = UvicornThread(app, [listener], drain_seconds=drain_seconds, on_end=on_end, limits=limits)
        self.url = url_of(listener)

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
