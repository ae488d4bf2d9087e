"""TCP proxy between a client and a server that can cut all connections, like a network failure."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


class CuttingProxy:
    """`CuttingProxy`: proxy on a free port of the loopback interface; a context manager.

    Attributes:
        port: port of the proxy.
        cuts: number of connections that were cut.
    """

    def __init__(self, to_port: int) -> None:
        self._to = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cuts = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._down_until = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if time.monotonic() < self._down_until:
                _reset(client)
                continue
            server = socket.create_connection(("127.0.0.1", self._to))
            with self._lock:
                self._pairs.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()

    def cut(self, down_seconds: float = 0.0) -> None:
        """Reset all connections, which loses the bytes in transit, and reject new ones for some seconds.

        Args:
            down_seconds: seconds during which new connections are rejected.
        """
        self._down_until = time.monotonic() + down_seconds
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.cuts += 1
            for end in pair:
                _reset(end)

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()


def _reset(end: socket.socket) -> None:
    """Close a connection at once with RST; bytes that were not read yet are lost."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes from one connection to the other until the first one ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
