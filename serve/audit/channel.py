"""The way of entries from the processes of a server to its supervisor, which writes the log: one chain for all.

A message is the size of the contents in four bytes, and the contents with a newline after each. Its answer is one byte:
`WRITTEN`, or `FAILED` if the log cannot be written.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fletcher.runtime.os_errors import explain

from ..access.addresses import bind_path
from .log_file import LogFile

__all__ = ["AuditServer", "RemoteLog"]

logger = logging.getLogger("fletcher.serve.audit")

SIZE: Final = struct.Struct("<I")
WRITTEN: Final = b"+"
FAILED: Final = b"-"

#: Seconds in which the supervisor must answer.
ANSWER_SECONDS: Final = 10.0

#: Seconds before connections are accepted again after an error.
RETRY_SECONDS: Final = 0.1


class RemoteLog:
    """The log of the supervisor, seen from another process. One thread uses it."""

    def __init__(self, path: str) -> None:
        """Prepare; the connection is made when it is needed.

        Args:
            path: Unix socket of the supervisor.
        """
        self._path = path
        self._connection: socket.socket | None = None

    def write(self, bodies: Sequence[bytes]) -> None:
        """Let the supervisor write lines.

        Raises:
            OSError: it cannot, or it is away.
        """
        content = b"\n".join(bodies) + b"\n"
        try:
            connection = self._connect()
            connection.sendall(SIZE.pack(len(content)) + content)
            answer = connection.recv(1)
        except OSError:
            self.close()
            raise
        if answer == WRITTEN:
            return
        if answer != FAILED:
            self.close()
        raise OSError("the supervisor did not write the lines")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> socket.socket:
        if self._connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(ANSWER_SECONDS)
            try:
                connection.connect(self._path)
            except OSError:
                connection.close()
                raise
            self._connection = connection
        return self._connection


class AuditServer:
    """The supervisor's end. It is open from its construction until `close`."""

    def __init__(self, log: LogFile, path: Path) -> None:
        """Listen.

        Args:
            log: the log, which the caller closes.
            path: path of the Unix socket, in a private folder.
        """
        self.log = log
        self._listener = bind_path(str(path))
        self._connections: set[socket.socket] = set()
        self._mutex = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, name="fletcher-audit-accept", daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        with self._mutex:
            open_ones = [self._listener, *self._connections]
        for one in open_ones:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:
                    if self._closed:
                        return
                    logger.warning("a connection was not accepted", extra={"fields": {"reason": explain(error)}})
                    time.sleep(RETRY_SECONDS)
                    continue
                with self._mutex:
                    self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), name="fletcher-audit", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Write what one process sends, until it ends."""
        try:
            with connection, connection.makefile("rb") as reader:
                while len(prefix := reader.read(SIZE.size)) == SIZE.size:
                    size = SIZE.unpack(prefix)[0]
                    content = reader.read(size)
                    if len(content) < size:
                        return
                    connection.sendall(WRITTEN if self._write(content) else FAILED)
        except OSError:
            return  # the process has ended
        finally:
            with self._mutex:
                self._connections.discard(connection)

    def _write(self, content: bytes) -> bool:
        try:
            self.log.append(content.split(b"\n")[:-1])
        except OSError as error:
            logger.error("the audit log cannot be written", extra={"fields": {"reason": explain(error)}})
            return False
        return True
