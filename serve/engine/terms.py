"""`Terms`: priority, client and deadline of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

__all__ = ["PRIORITIES", "SHARES", "USUAL", "WEIGHTS", "Priority", "Terms"]

Priority = Literal["interactive", "normal", "bulk"]

#: The most urgent first.
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

#: Tokens that a client of a class gets for each token of a bulk client, while all of them wait.
WEIGHTS: Final[Mapping[Priority, float]] = {"interactive": 16.0, "normal": 4.0, "bulk": 1.0}

#: Share of the queue's limit up to which a class is admitted: bulk leaves room, and urgent requests find some.
SHARES: Final[Mapping[Priority, float]] = {"interactive": 1.25, "normal": 1.0, "bulk": 0.5}


class Terms(msgspec.Struct, frozen=True):
    """Conditions under which a request waits.

    Attributes:
        priority: class of the request.
        client: owner of the request; clients of one class get equal shares.
        deadline: `time.monotonic()` of this machine after which the answer is not used any more, or None.
    """

    priority: Priority = "normal"
    client: str = ""
    deadline: float | None = None


USUAL: Final = Terms()
