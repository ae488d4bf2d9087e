"""`PassedConnections`: an HTTP server without a listening socket. The supervisor accepts its connections and passes them."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable

from ..connection_limits import ConnectionLimits
from ..http.call import AsgiApp
from ..http.server import UvicornThread
from ..tls.certificates import Certificates

__all__ = ["PassedConnections"]

logger = logging.getLogger("fletcher.serve.fronts")


class PassedConnections:
    """HTTP server of a front process, on an event loop of its own thread. It is open from `start` to `stop`."""

    def __init__(
        self,
        app: AsgiApp,
        *,
        drain_seconds: float,
        on_counts: Callable[[int, int], None] | None = None,
        on_end: Callable[[], None] | None = None,
        limits: ConnectionLimits | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        """Prepare the server.

        Args:
            app: the application.
            drain_seconds: seconds that open requests may take after `stop`.
            on_counts: called on the event loop with the numbers of connections since the start that the loop has taken, and
                that have ended: in each turn that has taken some, and, at most ten times a second, when some have ended.
            on_end: called on the event loop when everything is answered, for example `Forward.close`.
            limits, certificates: limits and certificate of the connections, as of `UvicornThread`.
        """
        self._uvicorn = UvicornThread(
            app,
            [],
            drain_seconds=drain_seconds,
            on_tick=self._report_closed,
            on_end=on_end,
            limits=limits,
            certificates=certificates,
        )
        self._on_counts = on_counts
        self._lock = threading.Lock()
        self._added = self._begun = self._closed = 0
        self._reporting = False
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, after `start`."""
        return self._uvicorn.loop

    @property
    def open(self) -> int:
        """Number of connections that were added and have not ended."""
        return self._waiting + self._uvicorn.open

    def start(self) -> None:
        """Start the thread. Return when connections can be added.

        Raises:
            ServiceError: uvicorn did not start; its log has the reason.
        """
        self._uvicorn.start()

    def add(self, connection: socket.socket) -> None:
        """Serve a connection, from any thread. After the end of the server the connection is closed."""
        with self._lock:
            self._added += 1
            self._waiting += 1
        try:
            self.loop.call_soon_threadsafe(self._begin, connection)
        except RuntimeError:  # the loop is closed
            with self._lock:
                self._waiting -= 1
            connection.close()

    def stop(self, seconds: float | None = None) -> None:
        """Close idle connections, and return at once. Open requests continue; connections that come later are closed.

        Args:
            seconds: seconds that open requests may take from now on. Default: `drain_seconds`.
        """
        self._uvicorn.stop(seconds)

    def join(self) -> bool:
        """Wait until all open requests are answered, or until the time limit passes.

        Returns:
            Whether all were answered.
        """
        self._uvicorn.join()
        return self.open == 0

    def _begin(self, connection: socket.socket) -> None:
        task = self.loop.create_task(self._connect(connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        self._begun += 1
        if not self._reporting:  # once for all that this turn of the loop takes
            self._reporting = True
            self.loop.call_soon(self._report)
        try:
            # As for connections that uvloop accepts itself: a small answer does not wait for an acknowledgement.
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            await self._uvicorn.connect(connection)
        except OSError:
            logger.debug("a connection broke before it was served")
            connection.close()
        except asyncio.CancelledError:  # the loop ends
            connection.close()
            raise
        finally:
            with self._lock:
                self._waiting -= 1

    def _report_closed(self) -> None:
        """Report the numbers of connections if some have ended."""
        if self._count_closed() > self._closed:
            self._report()

    def _report(self) -> None:
        """Report the numbers of connections."""
        self._reporting = False
        self._closed = self._count_closed()
        if self._on_counts is not None:
            self._on_counts(self._begun, self._closed)

    def _count_closed(self) -> int:
        with self._lock:
            return self._added - self.open
