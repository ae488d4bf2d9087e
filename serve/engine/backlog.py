"""`Backlog`: the queue of tokenized requests in a fair order, and the forming of batches. It knows tokens, not models.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) gives clients and classes their turns: a request starts at the
time on a virtual clock at which its client's last one ended; the clock runs faster for light classes, and the earliest start
is next. A client that was idle starts at the clock's time: it gets no credit for its idleness.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import Final

from fletcher.runtime.errors import FletcherError
from fletcher.runtime.tasks.task import Task

from .admission import Admission
from .open_request import OpenRequest, Piece
from .terms import WEIGHTS, Priority

__all__ = ["Backlog", "FairQueue"]

#: Requests looked at for one batch when more wait than it holds: enough to find similar lengths, cheap to sort.
WINDOW: Final = 256

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
        if not self.heap:  # nothing waits: every client starts anew
            self._ends.clear()
            self._clock = 0.0
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
        """Set the clock to the place of a request that is served now while others wait."""
        self._clock = max(self._clock, request.place[0])

    def clear(self) -> None:
        """Remove all requests."""
        self.heap.clear()
        self._ends.clear()


class Backlog:
    """A queue that hands out batches. Requests share turns: a large one gives one batch, then queues again."""

    def __init__(self, admission: Admission) -> None:
        """Begin with an empty queue.

        Args:
            admission: the open requests; its lock guards the queue, too.
        """
        self._admission = admission
        self._lock = admission.lock
        self._arrival = threading.Condition(self._lock)
        self._waiting = FairQueue()
        self._closed = False

    def push(self, request: OpenRequest, task: Task) -> None:
        """Queue an admitted request, now with its rows (at least one). Do nothing after `close`: it is settled then."""
        tokens = task.encodings.num_tokens
        with self._lock:
            if self._closed:
                return
            request.task = task
            request.encodings = task.encodings
            request.untaken = len(task.encodings)
            self._admission.charge(request, request.cost - tokens)
            self._waiting.push(request)
            self._arrival.notify()

    def take(self, budget: int) -> list[Piece] | None:
        """Wait for work and form a batch of at most `budget` tokens, or of one longer text; return None after `close`.

        Requests that every caller cancelled, and those that are late, are settled here, before they cost compute.
        """
        while True:
            dropped: list[tuple[OpenRequest, FletcherError]] = []
            with self._lock:
                while not self._waiting.heap and not self._closed:
                    self._arrival.wait()
                if not self._waiting.heap:
                    return None
                pieces = self._gather(budget, dropped)
            for request, error in dropped:  # outside the lock: a future may call its caller back
                self._admission.settle(request, error=error)
            if pieces:
                return pieces

    def _gather(self, budget: int, dropped: list[tuple[OpenRequest, FletcherError]]) -> list[Piece]:
        """Form a batch; add requests that are not worth computing to `dropped`."""
        now = time.monotonic()
        queue, admission = self._waiting, self._admission
        window: list[OpenRequest] = []
        while queue.heap and len(window) < WINDOW:
            request = queue.draw()
            late = now >= request.due or request.futures[0].cancelled()
            if late and (error := request.reason_to_drop(now)) is not None:
                dropped.append((request, error))
            elif not request.settled:
                window.append(request)
        if admission.tokens > budget and len(window) > 2:
            # The request whose turn it is always goes; those of its class that are most like it go with it, so that
            # attention pads little, and others if there is room left.
            like, priority = window[0].next_length, window[0].terms.priority
            window[1:] = sorted(
                window[1:], key=lambda request: (request.terms.priority != priority, abs(request.next_length - like))
            )
        pieces: list[Piece] = []
        unfinished: list[OpenRequest] = []
        room = budget
        for request in window:
            # A batch has one output: the rows of late chunking go into another batch.
            fits = room > 0 and (not pieces or request.task.output == pieces[0].request.task.output)
            piece = request.take(room, budget, 0 if pieces else 1) if fits else None
            if piece is None:
                queue.put_back(request)
                continue
            pieces.append(piece)
            tokens = piece.encodings.num_tokens
            room -= tokens
            admission.charge(request, tokens)
            if request.untaken:
                unfinished.append(request)
        if pieces and queue.heap:
            queue.advance(pieces[0].request)
        for request in unfinished:
            queue.push(request)
        if pieces and (queue.heap or admission.rate.sampling):
            admission.rate.count_drained(budget - room, now, waiting=bool(queue.heap))
        if queue.heap:
            self._arrival.notify()
        return pieces

    def close(self) -> None:
        """End `take` for every worker."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._arrival.notify_all()
