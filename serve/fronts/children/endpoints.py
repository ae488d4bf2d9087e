"""`Endpoints`: the ports of a server of several processes, and the folder of the sockets between them."""

from __future__ import annotations

import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...access.addresses import Addresses, HostPort, bind, url_of
from ...listening import Listening, listening_addresses
from ...server_options import ServerOptions

__all__ = ["Endpoints"]

#: Longest folder for temporary files in which a Unix socket fits: a path has 104 bytes on macOS, 108 on Linux.
LONGEST_FOLDER: Final = 70


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Ports and folder.

    Attributes:
        addresses: addresses on which the server listens.
        listening: the addresses as the options name them.
        listener: listening socket of HTTP, or None.
        flight_listener: listening socket of Flight, or None.
        flight: address of Flight with its port, or None.
        folder: private folder of Unix sockets.
    """

    addresses: Addresses
    listening: Listening
    listener: socket.socket | None
    flight_listener: socket.socket | None
    flight: HostPort | None
    folder: Path

    @classmethod
    def open(cls, options: ServerOptions) -> Endpoints:
        """Open the ports that the options name, and make the folder.

        Raises:
            InputError: as for `listening_addresses`, or a port is in use.
        """
        listening = listening_addresses(options)
        flight_listener = None if listening.flight is None else bind(listening.flight, "--flight")
        try:
            listener = None if listening.http is None else bind(listening.http, "--http")
        except BaseException:
            if flight_listener is not None:
                flight_listener.close()
            raise
        flight = None if flight_listener is None else HostPort(*flight_listener.getsockname()[:2])
        http = None if listener is None else url_of(listener)
        addresses = Addresses(http, None if flight is None else f"grpc://{flight}")
        long = len(tempfile.gettempdir()) > LONGEST_FOLDER
        folder = Path(tempfile.mkdtemp(prefix="fletcher-", dir="/tmp" if long else None))
        return cls(addresses, listening, listener, flight_listener, flight, folder)

    def clear_folder(self) -> None:
        """Remove the sockets of an engine that was killed."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for path in self.folder.glob("engine.*"):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the ports, and remove the folder."""
        for opened in (self.listener, self.flight_listener):
            if opened is not None:
                opened.close()
        self.listening.remove_socket()
        shutil.rmtree(self.folder, ignore_errors=True)
