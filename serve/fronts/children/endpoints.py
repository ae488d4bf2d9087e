"""`Endpoints`: the ports of a server of several processes, and the folder of the sockets between them."""

from __future__ import annotations

import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...access.addresses import Addresses, HostPort, bind
from ...listening import listening_addresses
from ...server_options import ServerOptions

__all__ = ["Endpoints"]

#: Longest folder for temporary files in which a Unix socket fits: a path has 104 bytes on macOS, 108 on Linux.
LONGEST_FOLDER: Final = 70


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Ports and folder.

    Attributes:
        addresses: addresses on which the server listens.
        listener: listening socket of HTTP, or None.
        flight: address of Flight with its port, or None.
        folder: private folder of Unix sockets.
    """

    addresses: Addresses
    listener: socket.socket | None
    flight: HostPort | None
    folder: Path
    _hold: socket.socket | None

    @classmethod
    def open(cls, options: ServerOptions) -> Endpoints:
        """Open the ports that the options name, and make the folder.

        Raises:
            InputError: as for `listening_addresses`, or a port is in use.
        """
        listening = listening_addresses(options)
        flight = hold = None
        if listening.flight is not None:
            # gRPC's own message names neither the option nor the reason, and gRPC would share a port with another server.
            with bind(listening.flight, "--flight") as probe:
                where = probe.getsockname()
            flight = HostPort(listening.flight.host, where[1])
            hold = _hold(probe.family, where)
        try:
            listener = None if listening.http is None else bind(listening.http, "--http")
        except BaseException:
            if hold is not None:
                hold.close()
            raise
        http = None if listener is None else f"http://{HostPort(*listener.getsockname()[:2])}"
        addresses = Addresses(http, None if flight is None else f"grpc://{flight}")
        long = len(tempfile.gettempdir()) > LONGEST_FOLDER
        folder = Path(tempfile.mkdtemp(prefix="fletcher-", dir="/tmp" if long else None))
        return cls(addresses, listener, flight, folder, hold)

    def clear_folder(self) -> None:
        """Remove the sockets of a process that was killed."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the ports, and remove the folder."""
        for opened in (self.listener, self._hold):
            if opened is not None:
                opened.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _hold(family: int, where: Any) -> socket.socket | None:
    """Return a socket that keeps a port for the fronts, which share it; None where ports cannot be shared.

    It does not listen, so that it gets no connections.
    """
    option = getattr(socket, "SO_REUSEPORT", None)
    if option is None:
        return None
    holder = socket.socket(family, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(where)
    except OSError:  # only the reservation fails: the fronts report what they cannot use
        holder.close()
        return None
    return holder
