"""`Endpoints`: the ports of a server of several processes, and the folder of the sockets between them."""

from __future__ import annotations

import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from ...access.addresses import Addresses, HostPort, bind, url_of
from ...access.tokens.tokens import Tokens
from ...audit.channel import AuditServer
from ...audit.lifetime import end_log
from ...listening import Listening, listening_addresses, private_folder
from ...server_options import ServerOptions
from ...surroundings import open_audit_log, open_certificates
from ...tls.certificates import Certificates
from ..config import AUDIT_SOCKET

__all__ = ["Endpoints"]


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
        certificates: certificate of Flight's connections, which the supervisor relays; None without TLS.
        audit: takes the lines of the audit log; None without one.
    """

    addresses: Addresses
    listening: Listening
    listener: socket.socket | None
    flight_listener: socket.socket | None
    flight: HostPort | None
    folder: Path
    certificates: Certificates | None
    audit: AuditServer | None

    @classmethod
    def open(cls, options: ServerOptions) -> Endpoints:
        """Open the ports that the options name, and make the folder.

        Raises:
            InputError: as for `listening_addresses`, or a port is in use, or a file of the certificate or of signed tokens
                cannot be used.
        """
        listening = listening_addresses(options)
        certificates = open_certificates(options)
        if options.jwt is not None:
            Tokens(
                Path(options.jwt)
            ).close()  # the processes read the keys themselves, and begin without them if need be
        flight_listener = None if listening.flight is None else bind(listening.flight, "--flight")
        try:
            listener = None if listening.http is None else bind(listening.http, "--http")
        except BaseException:
            if flight_listener is not None:
                flight_listener.close()
            raise
        flight = None if flight_listener is None else HostPort(*flight_listener.getsockname()[:2])
        tls = certificates is not None
        http = None if listener is None else url_of(listener, tls=tls)
        addresses = Addresses(http, None if flight is None else f"grpc{'+tls' if tls else ''}://{flight}")
        if certificates is not None:
            certificates.start()
        try:
            log = open_audit_log(options)
        except BaseException:
            for opened in (listener, flight_listener):
                if opened is not None:
                    opened.close()
            raise
        folder = private_folder()
        audit = None if log is None else AuditServer(log, folder / AUDIT_SOCKET)
        return cls(addresses, listening, listener, flight_listener, flight, folder, certificates, audit)

    def clear_folder(self) -> None:
        """Remove the sockets of an engine that was killed."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for path in self.folder.glob("engine.*"):
            path.unlink(missing_ok=True)

    def reload(self) -> None:
        """Read the certificate again, and begin a new audit log if the present one was moved.

        Raises:
            InputError: one of them failed and is as before.
        """
        for reload in (
            None if self.audit is None else self.audit.log.reopen,
            None if self.certificates is None else self.certificates.reload,
        ):
            if reload is not None:
                reload()

    def close(self) -> None:
        """Close the ports, and remove the folder."""
        if self.certificates is not None:
            self.certificates.close()
        if self.audit is not None:
            self.audit.close()
            end_log(self.audit.log)
        for opened in (self.listener, self.flight_listener):
            if opened is not None:
                opened.close()
        self.listening.remove_socket()
        shutil.rmtree(self.folder, ignore_errors=True)
