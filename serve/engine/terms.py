"""`Terms`: priority, client and deadline of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

__all__ = ["PRIORITIES", "SHARES", "USUAL", "WEIGHTS", "Priority", "Terms"]

Priority = Literal["interactive", "normal", "bulk"]

#: Priority classes, the most urgent one first.
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

#: Number of tokens that a client of each class gets for each token of a bulk client, while requests of all classes wait.
WEIGHTS: Final[Mapping[Priority, float]] = {"interactive": 16.0, "normal": 4.0, "bulk": 1.0}

#: Share of the queue's limit up to which requests of each class are admitted, so that bulk requests leave room for others.
SHARES: Final[Mapping[Priority, float]] = {"interactive": 1.25, "normal": 1.0, "bulk": 0.5}


class Terms(msgspec.Struct, frozen=True):
    """Conditions under which a request waits.

    Attributes:
        priority: class of the request.
        client: client that sent the request; clients of one class get equal shares.
        deadline: `time.monotonic()` of this machine after which the client does not use the answer, or None.
        patient: whether the request is a later part of a stream that was admitted: it waits until the queue has room. It is
            not dropped because it waits long.
        spaces: identifiers of the spaces whose vectors the client accepts; empty if it accepts all.
    """

    priority: Priority = "normal"
    client: str = ""
    deadline: float | None = None
    patient: bool = False
    spaces: tuple[str, ...] = ()

    def within(self, space: str) -> Terms:
        """Return the same terms for a later part of an answer whose first part has vectors of a space."""
        return msgspec.structs.replace(self, spaces=(space,))

    def waiting(self) -> Terms:
        """Return the same terms for a later part of a stream."""
        return msgspec.structs.replace(self, patient=True)


#: Default terms.
USUAL: Final = Terms()
