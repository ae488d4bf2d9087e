"""uvicorn, carrying the HTTP door on a thread of its own. The application is plain ASGI: another server fits here too.

Chosen by `benchmarks/http_stacks`.
"""

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

#: Seconds that an idle connection is kept: longer than the usual load balancer's minute, so that it closes first.
KEEP_ALIVE_SECONDS = 75


#: Seconds in which a new connection must have sent the head of its first request.
HEADER_SECONDS = 30.0


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which itself waits for a first request for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._check_head)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._head_timer.cancel()  # it would keep what belongs to the connection, some kilobytes, until it rings

    def _check_head(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Announcing(uvicorn.Server):
    """uvicorn's server, with an event for the moment from which it accepts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


class HttpServer:
    """The HTTP door: open from `start` to `stop`."""

    def __init__(self, app: HttpApp, listener: socket.socket, *, drain_seconds: float) -> None:
        """
        Args:
            app: what answers.
            listener: a listening socket; the server owns it from now on.
            drain_seconds: how long requests under way may take after `stop`.
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
            # The engine keeps the limit and answers what it drops; uvicorn's own, which cancels, is for what hangs.
            timeout_graceful_shutdown=math.ceil(drain_seconds) + 2,
        )
        self._server = _Announcing(config)
        self._listener = listener
        self._thread = threading.Thread(target=self._serve, name="fletcher-http", daemon=True)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{HostPort(host, port)}"

    def start(self) -> None:
        """Returns once it accepts.

        Raises:
            ServiceError: uvicorn did not come up; its log says why.
        """
        self._thread.start()
        while not self._server.accepting.wait(0.1):
            if not self._thread.is_alive():
                raise ServiceError(f"the HTTP server on {self.url} did not start; the log has the reason")

    def stop(self) -> None:
        """Closes the listening socket and the idle connections; requests under way go on. Returns at once."""
        self._server.should_exit = True

    def join(self) -> None:
        """Waits until every request under way is answered, or the time for that is over."""
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._server.serve(sockets=[self._listener]))
