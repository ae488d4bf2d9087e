"""`ByteBudget`: bytes that the bodies and answers of all connections of a process may take together."""

from __future__ import annotations

import threading
from typing import Final, Protocol

from fletcher.runtime.errors import OverloadedError
from fletcher.runtime.machine.machine import this_machine

from .errors import TooLargeError

__all__ = ["ByteBudget", "Holder"]

#: Share of the machine's memory, or of the container's limit, that bodies and answers may take if nothing else bounds them.
MACHINE_SHARE: Final = 8

#: Budget of a machine whose memory is not known, in bytes.
UNKNOWN_MACHINE: Final = 1 << 30

#: Seconds after which a client should try again that found no room.
RETRY_SECONDS: Final = 1.0


class Holder(Protocol):
    """Record of a request.

    Attributes:
        held: bytes that the request holds.
    """

    held: int


class ByteBudget:
    """Bytes of open bodies and answers, with their limit. Safe to use from any thread.

    A body is held from its arrival, an answer from before it is computed until the client has received it.

    Attributes:
        limit: largest number of bytes.
        used: bytes that are held now.
        peak: largest number of bytes that were held at the same time.
    """

    def __init__(self, limit: int | None = None, *, shares: int = 1) -> None:
        """Start with nothing held.

        Args:
            limit: largest number of bytes of all processes. Default: an eighth of the machine's memory.
            shares: number of processes with a budget of their own; each has this part of the limit.
        """
        if limit is None:
            limit = this_machine().memory // MACHINE_SHARE or UNKNOWN_MACHINE
        self.limit = limit // shares
        self.used = self.peak = 0
        self._shares = shares
        self._lock = threading.Lock()

    def lower(self, limit: int) -> None:
        """Lower the limit of all processes. A value above the present limit has no effect.

        Args:
            limit: the new limit in bytes.
        """
        with self._lock:
            self.limit = min(self.limit, limit // self._shares)

    def hold(self, size: int, holder: Holder | None = None) -> None:
        """Hold more bytes for a request; a negative number gives bytes back.

        Args:
            size: number of bytes.
            holder: sum of what the request holds; None if the caller keeps it.

        Raises:
            TooLargeError: the request alone needs more than the limit.
            OverloadedError: other requests hold too much at present.
        """
        with self._lock:
            used = self.used + size
            if size <= 0 or used <= self.limit:
                self.used = used
                if used > self.peak:
                    self.peak = used
                if holder is not None:
                    holder.held += size
                return
            held = 0 if holder is None else holder.held
            limit, others = self.limit, self.used - held
        if size + held > limit:
            raise TooLargeError(
                f"the request and its answer need about {_mib(size + held)}; the limit of all requests is {_mib(limit)}: "
                "send it in several requests"
            )
        raise OverloadedError(
            f"the server is overloaded: other requests and their answers hold {_mib(others)}, and with this one they would "
            f"hold more than {_mib(limit)}",
            RETRY_SECONDS,
        )


def _mib(size: int) -> str:
    return f"{-(-size // (1 << 20))} MiB"
