"""`FairQueue`: fair order of tokenized requests.

The order is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Each request has a start and an end on a virtual
clock. It starts when the previous request of its client ends. A token takes more virtual time in a class with a lower weight.
The request with the earliest start is next. A client that was idle starts at the clock's present time, so that it has no
advantage from its idle time.

The parts of a stream stand in a line: only the first one has a place in the order. So they are computed one after the other.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import insort
from typing import Final

from ..open_request import OpenRequest
from ..terms import WEIGHTS, Priority

__all__ = ["FairQueue"]

#: Number of clients whose end on the clock is stored while others wait.
MOST_CLIENTS: Final = 4096


class _Line:
    """Parts of one stream that wait.

    Attributes:
        parts: the parts by number, without the one that was drawn.
        placed: whether the first part has a place in the order; False while it is drawn.
    """

    __slots__ = ("parts", "placed")

    def __init__(self) -> None:
        self.parts: list[OpenRequest] = []
        self.placed = False


class FairQueue:
    """Waiting requests. Not safe to use from several threads: the admission's lock guards it.

    Each request that was drawn must be given to `put_back`, `push_rest` or `follow`.

    Attributes:
        heap: the requests and lines with their places, the next one first; empty if no request waits.
    """

    def __init__(self, turn: int) -> None:
        """Start without requests.

        Args:
            turn: largest number of tokens that a request is charged for when it gets a place. The remaining tokens of a
                larger request are charged when it gets its next place, behind the client's other requests.
        """
        self.heap: list[tuple[float, int, OpenRequest | _Line]] = []
        self._turn = turn
        self._lines: dict[tuple[Priority, str, str], _Line] = {}
        self._ends: dict[tuple[Priority, str], float] = {}
        self._clock = 0.0
        self._numbers = itertools.count()

    def push(self, request: OpenRequest) -> None:
        """Add a request behind the other requests of its client, and behind the earlier parts of its stream."""
        if not self.heap:  # no request waits, so every client starts at 0 again
            self._ends.clear()
            self._clock = 0.0
        terms = request.terms
        item: OpenRequest | _Line = request
        if terms.stream:
            line = self._lines.setdefault((terms.priority, terms.client, terms.stream), _Line())
            insort(line.parts, request, key=_part)
            if line.placed:
                return
            item, request, line.placed = line, line.parts[0], True
        self._place(request)
        heapq.heappush(self.heap, (*request.place, item))

    def push_rest(self, request: OpenRequest, taken: int) -> None:
        """Add a request again of which a part was taken. It was charged for a full turn; its client gets the rest back.

        Args:
            request: a request that was drawn.
            taken: number of tokens that were taken.
        """
        terms = request.terms
        flow = (terms.priority, terms.client)
        unused = min(request.cost + taken, self._turn) - taken
        if unused > 0 and flow in self._ends:
            self._ends[flow] -= unused / WEIGHTS[terms.priority]
        self.push(request)

    def _place(self, request: OpenRequest) -> None:
        """Give a request its place: behind the other requests of its client that have one."""
        terms = request.terms
        flow = (terms.priority, terms.client)
        start = max(self._clock, self._ends.get(flow, 0.0))
        self._ends[flow] = start + min(request.cost, self._turn) / WEIGHTS[terms.priority]
        if len(self._ends) > MOST_CLIENTS:
            self._ends = {flow: end for flow, end in self._ends.items() if end > self._clock}
        request.place = (start, next(self._numbers))

    def put_back(self, request: OpenRequest) -> None:
        """Return a request that was drawn and not used to its place."""
        item: OpenRequest | _Line = request
        if request.terms.stream:
            line = self._line_of(request)
            insort(line.parts, request, key=_part)
            item, line.placed = line, True
        heapq.heappush(self.heap, (*request.place, item))

    def draw(self) -> OpenRequest:
        """Remove and return the next request."""
        start, number, item = heapq.heappop(self.heap)
        if isinstance(item, OpenRequest):
            return item
        item.placed = False
        request = item.parts.pop(0)
        request.place = (start, number)  # an earlier part may have come after the line got its place
        return request

    def follow(self, request: OpenRequest) -> OpenRequest | None:
        """End a request that was drawn; draw and return the next part of its stream, or None if none waits."""
        if not request.terms.stream:
            return None
        line = self._line_of(request)
        if line.parts:
            following = line.parts.pop(0)
            self._place(following)
            return following
        terms = request.terms
        del self._lines[terms.priority, terms.client, terms.stream]
        return None

    def _line_of(self, request: OpenRequest) -> _Line:
        terms = request.terms
        return self._lines[terms.priority, terms.client, terms.stream]

    def advance(self, request: OpenRequest) -> None:
        """Set the clock to the start of a request that goes into a batch while others wait."""
        self._clock = max(self._clock, request.place[0])

    def clear(self) -> None:
        """Remove all requests."""
        self.heap.clear()
        self._lines.clear()
        self._ends.clear()


def _part(request: OpenRequest) -> int:
    return request.terms.part
