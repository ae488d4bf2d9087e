"""How a request waits: how urgent it is, whose it is, and until when anybody wants the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from ..observe.record import Stages
    from ..observe.trace import Trace

__all__ = ["PRIORITIES", "SHARES", "USUAL", "WEIGHTS", "Priority", "Terms"]

Priority = Literal["interactive", "normal", "bulk"]

#: The most urgent first.
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

#: Tokens that a client of a class is given for each of a bulk client's, where all of them wait.
WEIGHTS: Final[Mapping[Priority, float]] = {"interactive": 16.0, "normal": 4.0, "bulk": 1.0}

#: Share of the queue's limit up to which a class is admitted: bulk leaves room, and the urgent find some.
SHARES: Final[Mapping[Priority, float]] = {"interactive": 1.25, "normal": 1.0, "bulk": 0.5}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a door knows of a request besides its texts.

    Attributes:
        priority: its class.
        client: whose it is; clients get alike within a class.
        deadline: `time.monotonic()` after which nobody wants the answer, or None.
        trace: receives its stages as spans, or None.
        stages: the engine adds the seconds of its stages here, or None.
    """

    priority: Priority = "normal"
    client: str = ""
    deadline: float | None = None
    trace: Trace | None = None
    stages: Stages | None = None


USUAL: Final = Terms()
