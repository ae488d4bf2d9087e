"""`ConnectionLimits`: largest number of HTTP connections of a process, of all clients and of one address."""

from __future__ import annotations

import resource
from collections import Counter
from typing import Final

__all__ = ["Address", "ConnectionLimits"]

#: Descriptors of the process that connections leave free: files, devices, gRPC, Longbow, the engine's socket.
OTHER_DESCRIPTORS: Final = 128

#: Address of a client: host and port; None on a Unix socket.
Address = tuple[str, int] | None


class ConnectionLimits:
    """Counts of open connections. One event loop uses it.

    Attributes:
        most: largest number of connections.
        of_address: largest number of connections of one address.
    """

    def __init__(self, most: int | None = None, of_address: int | None = None) -> None:
        """Start without connections.

        Args:
            most: largest number of connections. Default: the limit of open files less 128, but at least half of it.
            of_address: largest number of connections of one address. Default: half of `most`, so that one client cannot take
                all of them. Connections of a Unix socket have no address.
        """
        if most is None:
            files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = max(files - OTHER_DESCRIPTORS, files // 2)
        self.most = most
        self.of_address = max(most // 2, 1) if of_address is None else of_address
        self._open = 0
        self._of: Counter[str] = Counter()

    def enter(self, address: Address) -> bool:
        """Count a new connection; return False, and do not count it, if there are too many.

        Args:
            address: address of the client.
        """
        if self._open >= self.most:
            return False
        if address is not None:
            if self._of[address[0]] >= self.of_address:
                return False
            self._of[address[0]] += 1
        self._open += 1
        return True

    def leave(self, address: Address) -> None:
        """Count the end of a connection that `enter` has counted.

        Args:
            address: address of the client.
        """
        self._open -= 1
        if address is not None:
            self._of[address[0]] -= 1
            if not self._of[address[0]]:
                del self._of[address[0]]
