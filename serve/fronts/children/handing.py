"""`Handing`: accepts connections and hands each one to the front that has the fewest, of those that are not late."""

from __future__ import annotations

import errno
import logging
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from .process import ChildProcess

__all__ = ["Handing"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Connections that are accepted in one turn, so that messages of the children are read in between.
ACCEPT_AT_ONCE: Final = 64

#: Errors of the system that pass when other descriptors are closed, and the seconds of a pause after them.
SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
SHORTAGE_SECONDS: Final = 1.0


class Handing:
    """The way of connections from the listening socket to the fronts. One thread uses it."""

    def __init__(self, listener: socket.socket | None) -> None:
        """Take the listening socket.

        Args:
            listener: a listening socket, which `close` closes; None without HTTP.
        """
        if listener is not None:
            listener.setblocking(False)
        self.listener = listener
        self._waiting: deque[socket.socket] = deque()
        self._turns: dict[ChildProcess, int] = {}
        self._turn = 0
        self._paused_until = 0.0

    def wants(self, fronts: Iterable[ChildProcess], now: float) -> bool:
        """Return whether connections should be accepted: a front takes them, and none waits.

        Args:
            fronts: the fronts.
            now: time of the clock.
        """
        if self.listener is None or self._waiting or now < self._paused_until:
            return False
        return any(front.takes for front in fronts)

    def accept(self, fronts: Sequence[ChildProcess], now: float) -> None:
        """Accept what has arrived, and hand it over.

        Args:
            fronts: the fronts.
            now: time of the clock.
        """
        for _ in range(ACCEPT_AT_ONCE):
            if not self.wants(fronts, now):
                return
            assert self.listener is not None
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in SHORTAGES:
                    continue  # the client has left already
                logger.error("no connection can be accepted", extra={"fields": {"reason": str(error)}})
                self._paused_until = now + SHORTAGE_SECONDS
                return
            self._waiting.append(connection)
            self.hand_over(fronts)

    def hand_over(self, fronts: Sequence[ChildProcess]) -> None:
        """Hand over the connections that wait, as far as fronts take them."""
        while self._waiting:
            takers = [front for front in fronts if front.takes]
            if not takers:
                return
            front = min(takers, key=lambda front: (front.late, front.open, self._turns.get(front, 0)))
            if front.hand_over(self._waiting[0]):
                self._waiting.popleft()
                self._turn += 1
                self._turns[front] = self._turn

    def take_back(self, front: ChildProcess) -> None:
        """Let the connections that an ended front has not received wait for another one."""
        self._turns.pop(front, None)
        self._waiting.extendleft(reversed(front.take_back()))

    def close(self) -> None:
        """Close the listening socket and the connections that wait."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        for connection in self._waiting:
            connection.close()
        self._waiting.clear()
