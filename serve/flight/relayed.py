"""`RelayedFlight`: a Flight server of one process behind a relay, for TLS or for a port that processes share."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..access.addresses import HostPort
from ..tls.certificates import Certificates
from .relay import FlightRelay
from .server import FlightServer

__all__ = ["RelayedFlight"]

#: Name of the server's socket in the folder.
SOCKET: Final = "flight"


class RelayedFlight:
    """A Flight server behind a relay. It listens from its construction until `stop`. `FlightRelay` says what gRPC lacks.

    Attributes:
        url: URL for clients.
        server: the Flight server.
    """

    def __init__(
        self,
        make: Callable[[str], FlightServer],
        listener: socket.socket,
        folder: Path,
        certificates: Certificates | None,
    ) -> None:
        """Begin to serve.

        Args:
            make: makes a server that listens on the Unix socket with a path.
            listener: listening socket for clients; the relay closes it.
            folder: private folder for sockets; `stop` removes it.
            certificates: certificate of the connections; None for connections without TLS.

        Raises:
            ServiceError: gRPC cannot listen in the folder.
        """
        self._folder = folder
        path = str(folder / SOCKET)
        self.server = make(path)
        scheme = "grpc" if certificates is None else "grpc+tls"
        self.url = self.server.url = f"{scheme}://{HostPort(*listener.getsockname()[:2])}"
        self._relay = FlightRelay(listener, folder, lambda: path, certificates)
        self._relay.start()

    def stop(self, drain_seconds: float) -> None:
        """Accept no connection, answer what was read, and close.

        Args:
            drain_seconds: as of `FlightServer.stop`.
        """
        self._relay.close_listener()
        self.server.stop(drain_seconds)
        self._relay.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
