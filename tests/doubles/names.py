"""`NameServer`: a server of DNS on an address of the loopback, whose one name has the addresses that a test gives it."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Final

__all__ = ["NameServer"]

#: Type and class of a question for an address of version 4, and seconds for which an answer may be kept (RFC 1035, 3.2).
A, IN, SECONDS = 1, 1, 1

#: Response, authoritative, recursion is available; no error (RFC 1035, 4.1.1).
ANSWER: Final = 0x8580


class NameServer:
    """A server; a context manager that ends it.

    Attributes:
        addresses: addresses of the name; every other name has none.
    """

    def __init__(self, host: str, name: str, addresses: list[str]) -> None:
        """Listen.

        Args:
            host: address to listen on, with port 53.
            name: the name.
            addresses: its addresses now.

        Raises:
            OSError: the port is in use, or only root may listen on it.
        """
        self.addresses = addresses
        self._name = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 53))
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                query, client = self._socket.recvfrom(4096)
            except TimeoutError:
                continue
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 1  # the name of the only question
        asked, (kind,) = query[12:end].lower(), struct.unpack(">H", query[end : end + 2])
        found = self.addresses if asked == self._name and kind == A else []
        head = query[:2] + struct.pack(">HHHHH", ANSWER, 1, len(found), 0, 0)
        # 0xC00C: the name of the question (RFC 1035, 4.1.4).
        rows = [struct.pack(">HHHIH", 0xC00C, A, IN, SECONDS, 4) + socket.inet_aton(one) for one in found]
        return head + query[12 : end + 4] + b"".join(rows)
