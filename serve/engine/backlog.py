"""`Backlog`: queue of tokenized requests in a fair order, from which it forms batches. It handles tokens, not models.

The order is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Each request has a start and an end on a virtual
clock. It starts when the previous request of its client ends. A token takes more virtual time in a class with a lower weight.
The request with the earliest start is next. A client that was idle starts at the clock's present time, so that it has no
advantage from its idle time.

On a GPU a batch of a few thousand tokens takes about as long as one text, and two of them at the same time delay one another.
So while as many small batches are computed as there are devices, the queue forms no other batch until more tokens wait than a
small batch has, or one of the batches ends. The requests that came meanwhile form the next batch together. On one H200 with
MiniLM, 64 connections with one text a request got 13,900 requests/s instead of 10,300, together with graphs of such batches.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Sequence
from typing import Final

from fletcher.runtime.errors import FletcherError
from fletcher.runtime.tasks.task import Task

from .admission import Admission
from .open_request import OpenRequest, Piece
from .terms import WEIGHTS, Priority

__all__ = ["Backlog", "FairQueue"]

#: Largest number of requests that are compared for one batch: enough to find similar lengths, and fast to sort.
WINDOW: Final = 256

#: Largest number of tokens that a request is charged for when it is queued. The remaining tokens of a larger request are
#: charged when it is queued again, behind the client's other requests.
TURN_TOKENS: Final = 4096

#: Longest time in seconds for which a small batch holds back others: far longer than any takes, so that one that hangs does
#: not stop the queue.
SMALL_SECONDS: Final = 0.05

#: Number of clients whose end on the clock is stored while others wait.
MOST_CLIENTS: Final = 4096


class FairQueue:
    """Waiting requests. Not safe to use from several threads: the admission's lock guards it.

    Attributes:
        heap: the requests with their places, the next one first; empty if no request waits.
    """

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, OpenRequest]] = []
        self._ends: dict[tuple[Priority, str], float] = {}
        self._clock = 0.0
        self._numbers = itertools.count()

    def push(self, request: OpenRequest) -> None:
        """Add a request behind the other requests of its client."""
        if not self.heap:  # no request waits, so every client starts at 0 again
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
        """Return a request that was drawn and not used to its place."""
        heapq.heappush(self.heap, (*request.place, request))

    def draw(self) -> OpenRequest:
        """Remove and return the next request."""
        return heapq.heappop(self.heap)[2]

    def advance(self, request: OpenRequest) -> None:
        """Set the clock to the start of a request that goes into a batch while others wait."""
        self._clock = max(self._clock, request.place[0])

    def clear(self) -> None:
        """Remove all requests."""
        self.heap.clear()
        self._ends.clear()


class Backlog:
    """Queue that forms batches. A large request gives rows for one batch, then queues again."""

    def __init__(self, admission: Admission, *, small_tokens: int = 0, devices: int = 1) -> None:
        """Start with an empty queue.

        Args:
            admission: the open requests; its lock also guards the queue.
            small_tokens: largest number of tokens of a small batch; 0: every batch is formed as soon as a worker is free.
            devices: number of devices that compute batches.
        """
        self._admission = admission
        self._lock = admission.lock
        self._arrival = threading.Condition(self._lock)
        self._waiting = FairQueue()
        self._closed = False
        self._small_tokens = small_tokens
        self._devices = devices
        #: Batches that are computed, by identity: end of the time for which they hold back others; 0 for a large batch.
        self._computed: dict[int, float] = {}
        self._holding = False  # whether a worker waits for the end of a small batch

    def push(self, request: OpenRequest, task: Task) -> None:
        """Queue an admitted request.

        After `close` the method does nothing, because the engine has settled the request.

        Args:
            request: the request.
            task: the rows to compute, at least one.
        """
        tokens = task.encodings.num_tokens
        with self._lock:
            if self._closed:
                return
            request.task = task
            request.encodings = task.encodings
            request.untaken = len(task.encodings)
            self._admission.charge(request, request.cost - tokens)
            self._waiting.push(request)
            # A worker that waits for a small batch, or the one that computes it, takes this request as well.
            if not self._holding or not self._hold(time.monotonic()):
                self._arrival.notify()

    def take(self, budget: int) -> list[Piece] | None:
        """Wait for requests and form a batch of at most `budget` tokens, or of one longer text; return None after `close`.

        Requests that every caller cancelled, and requests that are too late, are settled here, before they are computed.
        The caller calls `end` with the batch when it is computed.
        """
        while True:
            dropped: list[tuple[OpenRequest, FletcherError]] = []
            with self._lock:
                while not self._closed:
                    if not self._waiting.heap:
                        self._arrival.wait()
                    elif seconds := self._hold(time.monotonic()):
                        self._holding = True
                        self._arrival.wait(seconds)
                        self._holding = False
                    else:
                        break
                if not self._waiting.heap:
                    return None
                pieces = self._gather(budget, dropped)
                if pieces and self._small_tokens:
                    small = sum(piece.encodings.num_tokens for piece in pieces) <= self._small_tokens
                    self._computed[id(pieces)] = time.monotonic() + SMALL_SECONDS if small else 0.0
            for request, error in dropped:  # without the lock, because a future may run callbacks
                self._admission.settle(request, error=error)
            if pieces:
                return pieces

    def end(self, pieces: Sequence[Piece]) -> None:
        """Count a batch of `take` as computed. The caller takes the next batch, or wakes a worker that does."""
        with self._lock:
            self._computed.pop(id(pieces), None)
            if self._holding:
                self._arrival.notify()

    def _hold(self, now: float) -> float:
        """Return the seconds for which small batches hold back the next one; 0 if it is formed now. The lock is held."""
        computed = self._computed
        if len(computed) < self._devices or self._admission.tokens > self._small_tokens:
            return 0.0
        return max(min(computed.values()) - now, 0.0)

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
            # The first request is always in the batch. Then requests of its class with the most similar lengths follow, so
            # that the batch has little padding, and then other requests if there is room left.
            length, priority = window[0].next_length, window[0].terms.priority
            window[1:] = sorted(
                window[1:], key=lambda request: (request.terms.priority != priority, abs(request.next_length - length))
            )
        pieces: list[Piece] = []
        unfinished: list[OpenRequest] = []
        room = budget
        for request in window:
            # A batch has one output, so rows of late chunking need another batch.
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
