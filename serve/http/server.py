"""`HttpServer`: uvicorn with the ASGI application, on a separate thread. `benchmarks/http_stacks` compares HTTP servers."""

from __future__ import annotations

import asyncio
import math
import socket
import threading

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fletcher.runtime.errors import ServiceError

from ..access.addresses import HostPort
from .app import HttpApp

__all__ = ["HttpServer"]

#: Seconds that an idle connection stays open: longer than the usual minute of load balancers, so that the balancer closes it.
KEEP_ALIVE_SECONDS = 75

#: Seconds in which a new connection must send the head of its first request.
HEADER_SECONDS = 30.0


class _Protocol(HttpToolsProtocol):
    """Protocol of uvicorn with a time limit for the first request of a connection. uvicorn itself does not have one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the connection."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._check_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer of the connection."""
        super().connection_lost(exc)
        self._head_timer.cancel()  # an open timer would keep a few kilobytes of the connection alive

    def _check_head(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Announcing(uvicorn.Server):
    """Server of uvicorn with an event that is set when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and set the event."""
        await super().startup(sockets)
        self.accepting.set()


class HttpServer:
    """HTTP server. It is open from `start` to `stop`."""

    def __init__(self, app: HttpApp, listener: socket.socket, *, drain_seconds: float) -> None:
        """Prepare the server.

        Args:
            app: the application.
            listener: a listening socket; the server closes it.
            drain_seconds: seconds that open requests may take after `stop`.
        """
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            # The engine applies the limit and answers what it drops. The limit of uvicorn cancels requests that hang.
            timeout_graceful_shutdown=math.ceil(drain_seconds) + 2,
        )
        self._server = _Announcing(config)
        self._listener = listener
        self._thread = threading.Thread(target=self._serve, name="fletcher-http", daemon=True)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{HostPort(host, port)}"

    def start(self) -> None:
        """Start the thread. Return when the server accepts connections.

        Raises:
            ServiceError: uvicorn did not start; its log has the reason.
        """
        self._thread.start()
        while not self._server.accepting.wait(0.1):
            if not self._thread.is_alive():
                raise ServiceError(f"the HTTP server on {self.url} did not start; the log has the reason")

    def stop(self) -> None:
        """Close the listening socket and idle connections, and return at once. Open requests continue."""
        self._server.should_exit = True

    def join(self) -> None:
        """Wait until all open requests are answered, or until the time limit passes."""
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._server.serve(sockets=[self._listener]))
