"""The order in which waiting requests get their turn: by weight and tokens, a client of a class at a time.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): a request starts where its client's last one ended on a virtual
clock that runs faster for light classes, and the earliest start is next. Who was idle starts at the clock: idleness earns
nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from .terms import WEIGHTS, Priority

if TYPE_CHECKING:
    from .request import Request

__all__ = ["FairQueue"]

#: Tokens that a request is charged for when it comes; what is left of a larger one is charged as it is taken, behind the
#: client's other requests.
TURN_TOKENS: Final = 4096

#: Clients whose place is remembered while others wait.
MOST_CLIENTS: Final = 4096


class FairQueue:
    """Requests that wait. Not safe to use from several threads: the backlog's lock guards it."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._ends: dict[tuple[Priority, str], float] = {}
        self._clock = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, _, request in self._heap)

    def push(self, request: Request) -> None:
        """Puts a request behind its client's others."""
        terms = request.terms
        flow = (terms.priority, terms.client)
        start = max(self._clock, self._ends.get(flow, 0.0))
        self._ends[flow] = start + min(request.cost, TURN_TOKENS) / WEIGHTS[terms.priority]
        if len(self._ends) > MOST_CLIENTS:
            self._ends = {flow: end for flow, end in self._ends.items() if end > self._clock}
        request.place = (start, next(self._numbers))
        heapq.heappush(self._heap, (*request.place, request))

    def put_back(self, request: Request) -> None:
        """Puts a request that was drawn and not used where it was."""
        heapq.heappush(self._heap, (*request.place, request))

    def draw(self) -> Request:
        """Takes the next one out."""
        return heapq.heappop(self._heap)[2]

    def advance(self, request: Request) -> None:
        """Sets the clock to a request that is served now."""
        self._clock = max(self._clock, request.place[0])
        if not self._heap:
            self._ends.clear()
            self._clock = 0.0

    def clear(self) -> None:
        """Drops everything."""
        self._heap.clear()
        self._ends.clear()
