"""`TcpProxy`: a proxy on the loopback that counts requests and disturbs answers: cut, slow, wrong or replaced."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


@dataclass
class TcpProxy:
    """A proxy in front of a server; a context manager.

    Attributes:
        target: port of the server.
        port: port of the proxy.
        cuts: numbers of bytes after which the next answers of more than that are cut off, one for each cut.
        pause: seconds before each part of an answer.
        wrong: text in an answer that is replaced by as many other bytes; empty for none.
        reply: answer to every request instead of the server's; empty for the server's.
        reply_after: number of requests that the server answers before `reply` begins.
        reply_to: end of the paths to which `reply` is the answer; empty for all.
        requests: (method, path) of every request.
        sent: bytes of answers.
    """

    target: int
    port: int = 0
    cuts: list[int] = field(default_factory=list)
    pause: float = 0.0
    wrong: bytes = b""
    reply: bytes = b""
    reply_after: int = 0
    reply_to: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0

    def count(self, method: str, end: str) -> int:
        """Return the number of requests whose path, without its query, ends with a text."""
        return sum(one == method and path.partition("?")[0].endswith(end) for one, path in self.requests)

    def __enter__(self) -> TcpProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                found = [(method.decode(), path.decode()) for method, path in _REQUEST.findall(data)]
                self.requests += found
                replaced = any(path.endswith(self.reply_to) for _, path in found)
                if replaced and self.reply and len(self.requests) > self.reply_after:
                    client.sendall(self.reply)
                    continue
                server.sendall(data)
        _close(client, server)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            passed = 0
            while data := server.recv(1 << 16):
                if self.pause:
                    time.sleep(self.pause)
                if self.wrong:
                    data = data.replace(self.wrong, bytes(len(self.wrong)))
                passed += len(data)
                with self._lock:
                    self.sent += len(data)
                    cut = bool(self.cuts) and passed > self.cuts[0]
                    if cut:
                        del self.cuts[0]
                if cut:
                    client.sendall(data[: len(data) // 2])
                    break
                client.sendall(data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
