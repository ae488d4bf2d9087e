"""`EncryptedFlight`: a Flight server of one process with TLS, which a relay ends. `FlightRelay` says why."""

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

__all__ = ["EncryptedFlight"]

#: Name of the server's socket in the folder.
SOCKET: Final = "flight"


class EncryptedFlight:
    """A Flight server behind a relay. It listens from its construction until `stop`.

    Attributes:
        url: URL for clients.
    """

    def __init__(
        self,
        make: Callable[[str], FlightServer],
        listener: socket.socket,
        folder: Path,
        certificates: Certificates,
    ) -> None:
        """Begin to serve.

        Args:
            make: makes a server that listens on the Unix socket with a path.
            listener: listening socket for clients; the relay closes it.
            folder: private folder for sockets; `stop` removes it.
            certificates: certificate of the connections.

        Raises:
            ServiceError: gRPC cannot listen in the folder.
        """
        self._folder = folder
        path = str(folder / SOCKET)
        self._server = make(path)
        self.url = self._server.url = f"grpc+tls://{HostPort(*listener.getsockname()[:2])}"
        self._relay = FlightRelay(listener, folder, lambda: path, certificates)
        self._relay.start()

    def stop(self, drain_seconds: float) -> None:
        """Accept no connection, answer what was read, and close.

        Args:
            drain_seconds: as of `FlightServer.stop`.
        """
        self._relay.close_listener()
        self._server.stop(drain_seconds)
        self._relay.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
