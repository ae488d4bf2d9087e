"""`Certificates`: the certificate of a server, which is exchanged when its files change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from fletcher.runtime.errors import FletcherError, InputError

from .files import ServedCertificate, TlsFiles, read_certificate

__all__ = ["HANDSHAKE_SECONDS", "SHUTDOWN_SECONDS", "Certificates"]

logger = logging.getLogger("fletcher.serve.tls")

#: Seconds between two looks at the files.
LOOK_SECONDS: Final = 1.0

#: Seconds in which a client must finish its handshake.
HANDSHAKE_SECONDS: Final = 10.0

#: Seconds in which a client must confirm the end of a connection. Idle clients do not read.
SHUTDOWN_SECONDS: Final = 1.0


class Certificates:
    """The certificate that new connections get. Open connections go on. Safe to use from any thread.

    Attributes:
        served: the certificate of new connections.
        refused: number of changed files that were refused.
        on_exchange: called with the serial number of a new certificate, on the thread that has read it; or None.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files.

        Args:
            files: certificate, key and CAs of clients.

        Raises:
            InputError: a file cannot be used.
            MissingPackageError: the package `cryptography` is not installed.
        """
        self._files = files
        self._lock = threading.Lock()
        self._state = self._look()
        self.served: ServedCertificate = read_certificate(files, time.time())
        self.refused = 0
        self.on_exchange: Callable[[str], None] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fletcher-certificates", daemon=True)

    def start(self) -> None:
        """Watch the files from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def reload(self) -> None:
        """Read the files again. Files that cannot be used change nothing.

        Raises:
            InputError: a file cannot be used; the error names it.
        """
        with self._lock:
            self._state = self._look()
            try:
                served = read_certificate(self._files, time.time())
            except InputError:
                self.refused += 1
                raise
            exchanged = served.serial != self.served.serial
            self.served = served
        if exchanged:
            logger.info("the certificate was exchanged", extra={"fields": {"serial": served.serial}})
            if self.on_exchange is not None:
                self.on_exchange(served.serial)

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            if self._look() == self._state:
                continue
            try:
                self.reload()
            except FletcherError as error:
                fields = {"reason": str(error), "served_until": self.served.expires}
                logger.error("the certificate was not exchanged: the one before goes on", extra={"fields": fields})

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return times, sizes and numbers of the files, also behind links; None for a file that does not exist."""
        state: list[tuple[int, int, int] | None] = []
        for path in self._files.options.values():
            try:
                found = path.stat()
                state.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                state.append(None)
        return tuple(state)
