"""`FlightBounds`: limits of what Flight calls hold, within the byte budget of the server.

pyarrow reads a whole message, and decompresses its buffers, before Fletcher sees it, so these limits apply from then on.
SECURITY.md describes the proxy that bounds the messages themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fletcher.runtime.errors import OverloadedError

from ..byte_budget import ByteBudget
from ..errors import TooLargeError

__all__ = ["MAX_TICKET_TEXTS", "FlightBounds"]

#: Largest number of texts of a ticket, as of a stream of `/encode/arrow`.
MAX_TICKET_TEXTS: Final = 65_536

#: Seconds between two looks whether the budget has room for the next part of a stream.
LOOK_SECONDS: Final = 0.05

#: Rows of an answer to `DoGet` that are sent in one message.
ANSWER_ROWS: Final = 2048


@dataclass(frozen=True, slots=True)
class FlightBounds:
    """Limits of Flight calls.

    Attributes:
        budget: bytes of the bodies and answers of all connections.
        message_bytes: largest size in bytes of a record batch, and of a ticket.
    """

    budget: ByteBudget
    message_bytes: int

    def check(self, size: int, name: str) -> None:
        """Refuse a message that is too large.

        Args:
            size: its bytes.
            name: name of the kind of message, for the error.

        Raises:
            TooLargeError: it is too large.
        """
        if size > self.message_bytes:
            raise TooLargeError(f"the {name} has {size} bytes; the limit is {self.message_bytes}: send smaller ones")

    def hold_part(self, size: int, ended: Callable[[], bool]) -> bool:
        """Hold the bytes of a part of a stream. It waits for room, so that its client waits, too.

        Args:
            size: bytes of the part and of its answer.
            ended: returns whether the stream ended meanwhile.

        Returns:
            False if the stream ended, and nothing is held.

        Raises:
            TooLargeError: the part alone is larger than the budget.
        """
        while not ended():
            try:
                self.budget.hold(size)
            except OverloadedError:
                time.sleep(LOOK_SECONDS)
            else:
                return True
        return False

    def sending(self, answer: Any, held: int) -> Iterator[Any]:
        """Return an iterator over the parts of an answer, which gives the held bytes back when it ends or is dropped.

        Args:
            answer: a `pyarrow.RecordBatch`.
            held: bytes that the call holds.
        """
        parts = self._sending(answer, held)
        next(parts)  # a generator that has not begun does not run its end either
        return parts

    def _sending(self, answer: Any, held: int) -> Iterator[Any]:
        try:
            yield None
            for start in range(0, answer.num_rows, ANSWER_ROWS):
                yield answer.slice(start, ANSWER_ROWS)
        finally:
            self.budget.hold(-held)
