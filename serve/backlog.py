"""Requests that wait, and how they become batches. It counts tokens and knows nothing of models, HTTP or Flight."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import OverloadedError, StoppingError
from fletcher.runtime.tasks import Task

__all__ = ["Backlog", "Piece", "Request"]

#: Requests looked at for one batch when more wait than it holds: enough to find similar lengths, cheap to sort.
WINDOW = 256

#: How much of the measured speed the newest full batch is.
NEWEST = 0.2

#: Bounds of what a refused client is told to wait, in seconds.
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 60.0


class Request:
    """One submission, from admission to answer. Its fields belong to the backlog's lock until its rows are taken.

    Attributes:
        future: the answer.
        cost: tokens that it holds of the backlog's limit: an estimate until it is tokenised.
        admitted: `time.perf_counter()` at admission.
        task: its rows, once it is tokenised.
        values: float32, what the graph made of them, filled piece by piece where it is larger than a batch.
    """

    __slots__ = (
        "_lock",
        "_next",
        "_order",
        "_totals",
        "admitted",
        "closed",
        "cost",
        "future",
        "rows_left",
        "task",
        "values",
    )

    def __init__(self, cost: int) -> None:
        self.future: Future[Any] = Future()
        self.cost = cost
        self.admitted = time.perf_counter()
        self.task: Task
        self.values: NDArray[np.float32] | None = None
        self.rows_left = 0
        self.closed = False
        self._lock = threading.Lock()
        self._order: NDArray[np.int64] | None = None
        self._totals: NDArray[np.int64]
        self._next = 0

    @property
    def encodings(self) -> Encodings:
        """Its token ids, once it is tokenised."""
        return self.task.encodings

    @property
    def next_length(self) -> float:
        """Tokens of the texts that it would give to a batch now: their mean, or the longest of a split request."""
        if self._order is None:
            return self.encodings.num_tokens / len(self.encodings)
        return float(self.encodings.lengths[self._order[self._next]])

    @property
    def taken(self) -> bool:
        """Whether every row is in some batch."""
        return self._next == len(self.encodings)

    def close(self) -> bool:
        """True for the one caller who may answer."""
        with self._lock:
            first, self.closed = not self.closed, True
        return first

    def fill(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Puts a piece's values in place; returns all of them once the last piece came."""
        by_token = self.task.by_token
        with self._lock:
            if self.values is None:
                count = self.encodings.num_tokens if by_token else len(self.encodings)
                self.values = np.empty((count, values.shape[1]), np.float32)
        # Pieces have no row in common, so this needs no lock.
        self.values[self.encodings.token_index(rows) if by_token else rows] = values
        with self._lock:
            self.rows_left -= len(rows)
            return None if self.rows_left else self.values

    def take(self, room: int, budget: int, at_least: int) -> Piece | None:
        """The next rows that fit.

        Args:
            room: tokens left in the batch.
            budget: tokens of a whole batch: a request that fits one is never split.
            at_least: rows to take even if they do not fit, so that a text longer than a batch is one by itself.
        """
        if self._next == 0 and self.encodings.num_tokens <= room:
            self._next = len(self.encodings)
            return Piece(self, None, self.encodings)
        if self._order is None:
            if self.encodings.num_tokens <= budget:
                return None
            # Longest first: similar lengths meet, and the pieces that finish the request are the cheap ones.
            self._order = np.argsort(-self.encodings.lengths, kind="stable")
            self._totals = np.cumsum(self.encodings.lengths[self._order])
            self.rows_left = len(self._order)
        done = self._totals[self._next - 1] if self._next else 0
        end = max(int(np.searchsorted(self._totals, done + room, side="right")), self._next + at_least)
        if end == self._next:
            return None
        rows = self._order[self._next : end]
        self._next = end
        return Piece(self, rows, self.encodings.select(rows))


@dataclass(frozen=True, slots=True)
class Piece:
    """What of a request is in a batch.

    Attributes:
        request: whose it is.
        rows: which of its rows, int64, (m,), or None for all of them in order.
        encodings: those rows' token ids.
    """

    request: Request
    rows: NDArray[np.int64] | None
    encodings: Encodings


class Backlog:
    """A bounded queue that hands out batches. Requests share turns: a large one gives one batch, then queues again."""

    def __init__(self, *, max_tokens: int, max_wait: float, workers: int) -> None:
        """
        Args:
            max_tokens: tokens that may wait; a single larger request is admitted when nothing else waits.
            max_wait: seconds that a request may be expected to wait before its first batch.
            workers: batches that are computed at once.
        """
        self._max_tokens = max_tokens
        self._max_wait = max_wait
        self._workers = workers
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._waiting: deque[Request] = deque()
        self._tokens = 0
        self._open: set[Request] = set()
        self._stopping = False
        self._closed = False
        self._tokens_per_second: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens admitted and not yet in a batch."""
        return self._tokens

    @property
    def open_requests(self) -> int:
        """Requests admitted and not yet answered."""
        return len(self._open)

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def tokens_per_second(self) -> float | None:
        """Measured speed of all workers together on full batches, or None before the first."""
        return self._tokens_per_second

    def admit(self, cost: int) -> Request:
        """Takes a request in, or refuses it at the door.

        Raises:
            StoppingError: the server is stopping.
            OverloadedError: too much waits.
        """
        with self._lock:
            if self._stopping:
                raise StoppingError("the server is stopping: send the request to another one, or again later")
            if self._tokens:
                self._check_room(cost)
            request = Request(cost)
            self._tokens += cost
            self._open.add(request)
        return request

    def _check_room(self, cost: int) -> None:
        speed = self._tokens_per_second
        wait = self._tokens / speed if speed else 0.0
        if self._tokens + cost > self._max_tokens:
            found = (
                f"{self._tokens} tokens wait, and with this request's {cost} they would be more than {self._max_tokens}"
            )
        elif wait > self._max_wait:
            found = f"{self._tokens} tokens wait, about {wait:.1f} s of work, and the limit is {self._max_wait:g} s"
        else:
            return
        seconds = min(max(wait / 2, SHORTEST_RETRY), LONGEST_RETRY)  # half the queue gone is room again
        raise OverloadedError(f"the server is overloaded: {found}. Retry after {seconds:.0f} s", seconds)

    def push(self, request: Request, task: Task) -> None:
        """Queues an admitted request, now with its rows (at least one).

        Raises:
            StoppingError: the server stopped while the request was tokenised.
        """
        with self._lock:
            if self._closed:
                raise StoppingError("the server stopped before it came to this request")
            request.task = task
            self._tokens += task.encodings.num_tokens - request.cost
            request.cost = task.encodings.num_tokens
            self._waiting.append(request)
            self._arrival.notify()

    def abandon(self, request: Request) -> None:
        """Gives back what an admitted request holds that will never be queued."""
        with self._lock:
            self._tokens -= request.cost
            request.cost = 0

    def settle(self, request: Request) -> None:
        """Counts a request as answered."""
        with self._lock:
            self._settle(request)

    def _settle(self, request: Request) -> None:
        self._open.discard(request)
        if not self._open:
            self._drained.notify_all()

    def measured(self, tokens: int, seconds: float) -> None:
        """Learns the speed from a full batch: small ones say nothing about a queue."""
        speed = self._workers * tokens / max(seconds, 1e-9)
        with self._lock:
            known = self._tokens_per_second
            self._tokens_per_second = speed if known is None else known + NEWEST * (speed - known)

    def take(self, budget: int) -> list[Piece] | None:
        """Waits for work and forms a batch of at most `budget` tokens, or of one longer text; None once it is closed.

        Requests whose future was cancelled are dropped here, before they cost compute.
        """
        with self._lock:
            while True:
                while not self._waiting and not self._closed:
                    self._arrival.wait()
                if not self._waiting:
                    return None
                if pieces := self._gather(budget):
                    return pieces

    def _gather(self, budget: int) -> list[Piece]:
        window: list[Request] = []
        while self._waiting and len(window) < WINDOW:
            request = self._waiting.popleft()
            if request.closed or request.future.cancelled():
                self._drop(request)
            else:
                window.append(request)
        if self._tokens > budget and len(window) > 2:
            # The one that waited longest always goes; those most like it go with it, so that attention pads little.
            like = window[0].next_length
            window[1:] = sorted(window[1:], key=lambda request: abs(request.next_length - like))
        pieces: list[Piece] = []
        left: list[Request] = []
        room = budget
        for request in window:
            # A batch has one output: what late chunking asks for is another one's.
            fits = room > 0 and (not pieces or request.task.output == pieces[0].request.task.output)
            piece = request.take(room, budget, 0 if pieces else 1) if fits else None
            if piece is None:
                left.append(request)
                continue
            pieces.append(piece)
            room -= piece.encodings.num_tokens
            self._tokens -= piece.encodings.num_tokens
            request.cost -= piece.encodings.num_tokens
            if not request.taken:
                self._waiting.append(request)
        left.sort(key=lambda request: request.admitted)
        self._waiting.extendleft(reversed(left))
        if self._waiting:
            self._arrival.notify()
        return pieces

    def _drop(self, request: Request) -> None:
        self._tokens -= request.cost
        request.cost = 0
        if request.close():
            request.future.set_running_or_notify_cancel()
            self._settle(request)

    def stop(self) -> None:
        """Admits nothing more."""
        with self._lock:
            self._stopping = True

    def wait_until_drained(self, seconds: float) -> bool:
        """Waits until every admitted request is answered; False if time ran out first."""
        with self._lock:
            return self._drained.wait_for(lambda: not self._open, seconds)

    def close(self) -> list[Request]:
        """Ends `take` for every worker; returns the requests that nobody has answered, those under way included."""
        with self._lock:
            self._stopping = self._closed = True
            left = list(self._open)
            self._waiting.clear()
            self._tokens = 0
            self._arrival.notify_all()
        return left
