"""`FairQueue`: the order in which waiting requests get their turn, by weight and tokens, one client of a class at a time.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): a request starts at the time on a virtual clock at which its
client's last one ended; the clock runs faster for light classes, and the earliest start is next. A client that was idle
starts at the clock's time: it gets no credit for its idleness.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Final

from .open_request import OpenRequest
from .terms import WEIGHTS, Priority

__all__ = ["FairQueue"]

#: Tokens that a request is charged for when it comes; the rest of a larger one is charged as it is taken, behind the
#: client's other requests.
TURN_TOKENS: Final = 4096

#: Number of clients whose end on the clock is kept while others wait.
MOST_CLIENTS: Final = 4096


class FairQueue:
    """Requests that wait. Not safe to use from several threads: the admission's lock guards it.

    Attributes:
        heap: the requests with their places, the next one first; empty while nothing waits.
    """

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, OpenRequest]] = []
        self._ends: dict[tuple[Priority, str], float] = {}
        self._clock = 0.0
        self._numbers = itertools.count()

    def push(self, request: OpenRequest) -> None:
        """Put a request behind its client's others."""
        terms = request.terms
        flow = (terms.priority, terms.client)
        start = max(self._clock, self._ends.get(flow, 0.0))
        self._ends[flow] = start + min(request.cost, TURN_TOKENS) / WEIGHTS[terms.priority]
        if len(self._ends) > MOST_CLIENTS:
            self._ends = {flow: end for flow, end in self._ends.items() if end > self._clock}
        request.place = (start, next(self._numbers))
        heapq.heappush(self.heap, (*request.place, request))

    def put_back(self, request: OpenRequest) -> None:
        """Put a request that was drawn and not used back into its place."""
        heapq.heappush(self.heap, (*request.place, request))

    def draw(self) -> OpenRequest:
        """Remove and return the next request."""
        return heapq.heappop(self.heap)[2]

    def advance(self, request: OpenRequest) -> None:
        """Set the clock to the place of a request that is served now."""
        self._clock = max(self._clock, request.place[0])
        if not self.heap:
            self._ends.clear()
            self._clock = 0.0

    def clear(self) -> None:
        """Remove all requests."""
        self.heap.clear()
        self._ends.clear()
