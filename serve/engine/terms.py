"""`Terms`: priority, client and deadline of a request, and its place in a stream. `Flow`: requests of a client in a class."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import msgspec

__all__ = [
    "PRIORITIES",
    "SHARES",
    "USUAL",
    "WEIGHTS",
    "Client",
    "Flow",
    "Priority",
    "Terms",
]

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
        stream: identity of the stream of which the request is a part; empty if it is not part of a stream. A part of a stream
            is not rejected while the queue is full: it waits for room. It is not dropped because it waits long.
        part: number of the part in its stream. Parts are computed in the order of their numbers.
        spaces: identifiers of the spaces whose vectors the client accepts; empty if it accepts all.
        salt: only requests with the same salt share cached vectors and computations.
    """

    priority: Priority = "normal"
    client: str = ""
    deadline: float | None = None
    stream: str = ""
    part: int = 0
    spaces: tuple[str, ...] = ()
    salt: str = ""

    def within(self, space: str) -> Terms:
        """Return the same terms for a later part of an answer whose first part has vectors of a space."""
        return msgspec.structs.replace(self, spaces=(space,))

    def as_stream(self, priority: Priority) -> Terms:
        """Return the terms of the first part of a new stream.

        Args:
            priority: class of the stream.
        """
        return msgspec.structs.replace(self, priority=priority, stream=secrets.token_hex(8), part=0)

    def at(self, part: int) -> Terms:
        """Return the terms of another part of the stream."""
        return msgspec.structs.replace(self, part=part)


@dataclass(slots=True, eq=False)
class Client:
    """Use of the queue by one client.

    Attributes:
        name: name of the client.
        open: number of its open requests.
        counted: its waiting tokens, of large requests only the counted ones.
        memory: predicted memory of its requests in bytes.
    """

    name: str
    open: int = 0
    counted: int = 0
    memory: int = 0


@dataclass(slots=True, eq=False)
class Flow:
    """Requests of one client in one class.

    Attributes:
        priority: the class.
        client: the client.
        open: number of its open requests.
        tokens: its waiting tokens.
    """

    priority: Priority
    client: Client
    open: int = 0
    tokens: int = 0


#: Default terms.
USUAL: Final = Terms()
