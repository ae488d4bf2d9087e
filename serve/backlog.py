"""Requests that wait, and how they become batches. It counts tokens and knows nothing of models, HTTP or Flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import DeadlineError, FletcherError, OverloadedError, StoppingError
from fletcher.runtime.tasks import Task

from .fair_queue import FairQueue
from .terms import PRIORITIES, SHARES, USUAL, WEIGHTS, Priority, Terms

__all__ = ["Backlog", "Piece", "Request"]

#: Requests looked at for one batch when more wait than it holds: enough to find similar lengths, cheap to sort.
WINDOW = 256

#: How much of the measured speed the newest full batch is.
NEWEST = 0.2

#: Bytes that open requests may be predicted to hold: token ids, and vectors until they are answered.
MAX_MEMORY = 1 << 30

#: Times the wait that was expected when it came that a request may wait, where that is more than the usual limit.
PATIENCE = 2.0

#: Bounds of what a refused client is told to wait, in seconds.
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 60.0


class Request:
    """One submission, from admission to answer. Its fields belong to the backlog's lock until its rows are taken.

    Attributes:
        futures: the answer, once for each caller that asked the same.
        terms: how it waits.
        cost: tokens that it holds of the backlog's limit: an estimate until it is tokenised.
        memory: bytes that it is predicted to hold until it is answered.
        admitted: `time.perf_counter()` at admission.
        expires: `time.monotonic()` after which it has waited too long for its first batch.
        place: where it stands in the queue.
        task: its rows, once it is tokenised.
        values: float32, what the graph made of them, filled piece by piece where it is larger than a batch.
        on_close: called once, when it is about to be answered.
    """

    __slots__ = (
        "_lock",
        "_next",
        "_order",
        "_totals",
        "admitted",
        "closed",
        "cost",
        "expires",
        "futures",
        "memory",
        "on_close",
        "place",
        "rows_left",
        "task",
        "terms",
        "values",
    )

    def __init__(self, cost: int, terms: Terms = USUAL, *, memory: int = 0, expires: float = float("inf")) -> None:
        self.futures: list[Future[Any]] = [Future()]
        self.terms = terms
        self.cost = cost
        self.memory = memory
        self.admitted = time.perf_counter()
        self.expires = expires
        self.place = (0.0, 0)
        self.on_close: Callable[[Request], None] | None = None
        self.task: Task
        self.values: NDArray[np.float32] | None = None
        self.rows_left = 0
        self.closed = False
        self._lock = threading.Lock()
        self._order: NDArray[np.int64] | None = None
        self._totals: NDArray[np.int64]
        self._next = 0

    @property
    def future(self) -> Future[Any]:
        """The first caller's."""
        return self.futures[0]

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return all(future.cancelled() for future in self.futures)

    def join(self, terms: Terms) -> Future[Any] | None:
        """Another future for the same answer; None where it is answered already, or waits with less urgency.

        Args:
            terms: the joining caller's: the request then lives as long as the more patient of the two.
        """
        if WEIGHTS[terms.priority] > WEIGHTS[self.terms.priority]:
            return None
        with self._lock:
            if self.closed or self.cancelled:
                return None
            ours = self.terms.deadline
            if ours is not None and (terms.deadline is None or terms.deadline > ours):
                self.terms = Terms(self.terms.priority, self.terms.client, terms.deadline)
            future: Future[Any] = Future()
            self.futures.append(future)
            return future

    def resolve(self, answer: Callable[[Future[Any]], None]) -> int:
        """Answers everybody, once `close` was true; returns how many had left."""
        left = 0
        for future in self.futures:
            if future.set_running_or_notify_cancel():
                answer(future)
            else:
                left += 1
        return left

    def lateness(self, now: float) -> FletcherError | None:
        """Why it is too late to compute it, or None."""
        if self.terms.deadline is not None and now >= self.terms.deadline:
            return DeadlineError("the request's deadline passed before it was computed")
        if now >= self.expires and self._next == 0:
            waited = time.perf_counter() - self.admitted
            return OverloadedError(
                f"the server is overloaded: the request waited {waited:.1f} s, longer than was expected. Retry after "
                f"{SHORTEST_RETRY:.0f} s",
                SHORTEST_RETRY,
            )
        return None

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
        if first and self.on_close is not None:
            self.on_close(self)
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

    def __init__(self, *, max_tokens: int, max_wait: float, workers: int, max_memory: int = MAX_MEMORY) -> None:
        """
        Args:
            max_tokens: tokens that may wait; a single larger request is admitted when nothing else waits.
            max_wait: seconds that a request may be expected to wait before its first batch.
            workers: batches that are computed at once.
            max_memory: bytes that open requests may be predicted to hold together.
        """
        self._max_memory = max_memory
        self._max_tokens = max_tokens
        self._max_wait = max_wait
        self._workers = workers
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._waiting = FairQueue()
        self._tokens = dict.fromkeys(PRIORITIES, 0)
        self._memory = 0
        self._open: set[Request] = set()
        self._stopping = False
        self._closed = False
        self._tokens_per_second: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens admitted and not yet in a batch."""
        return sum(self._tokens.values())

    def bound_memory(self, size: int) -> None:
        """Lowers what open requests may be predicted to hold, in bytes; what is admitted stays."""
        self._max_memory = min(self._max_memory, size)

    @property
    def memory(self) -> int:
        """Bytes that open requests are predicted to hold."""
        return self._memory

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

    def admit(self, cost: int, terms: Terms = USUAL, *, memory: int = 0) -> Request:
        """Takes a request in, or refuses it at the door.

        Args:
            cost: tokens, estimated.
            terms: how it waits.
            memory: bytes that it will hold, predicted.

        Raises:
            StoppingError: the server is stopping.
            DeadlineError: the deadline has passed.
            OverloadedError: too much waits, or more than the deadline has time for.
        """
        now = time.monotonic()
        with self._lock:
            if self._stopping:
                raise StoppingError("the server is stopping: send the request to another one, or again later")
            left = float("inf") if terms.deadline is None else terms.deadline - now
            if left <= 0:
                raise DeadlineError("the request's deadline had passed when it came")
            wait = self._expected_wait(terms.priority)
            if self.tokens:
                self._check_room(cost, terms.priority, wait, left)
            if self._open and self._memory + memory > self._max_memory:
                self._refuse(
                    f"open requests hold about {self._memory >> 20} MiB, and this one would make it more than "
                    f"{self._max_memory >> 20} MiB",
                    wait,
                )
            # A deep queue is given the time that it needs; past twice that, something went wrong.
            request = Request(cost, terms, memory=memory, expires=now + max(self._max_wait, PATIENCE * wait))
            self._tokens[terms.priority] += cost
            self._memory += memory
            self._open.add(request)
        return request

    def _expected_wait(self, priority: Priority) -> float:
        """Seconds until a request of a class is in a batch: what waits, as far as it goes before it; 0 where nobody knows."""
        speed = self._tokens_per_second
        if not speed:
            return 0.0
        weight = WEIGHTS[priority]
        return sum(tokens * min(1.0, WEIGHTS[kind] / weight) for kind, tokens in self._tokens.items()) / speed

    def _check_room(self, cost: int, priority: Priority, wait: float, left: float) -> None:
        limit, tokens = int(self._max_tokens * SHARES[priority]), self.tokens
        if tokens + cost > limit:
            self._refuse(f"{tokens} tokens wait, and with this request's {cost} they would be more than {limit}", wait)
        if wait > self._max_wait:
            self._refuse(
                f"{tokens} tokens wait, about {wait:.1f} s of work, and the limit is {self._max_wait:g} s", wait
            )
        if wait > left:
            self._refuse(f"{tokens} tokens wait, about {wait:.1f} s of work, and the deadline is in {left:.1f} s", wait)

    def _refuse(self, found: str, wait: float) -> NoReturn:
        seconds = min(max(wait / 2, SHORTEST_RETRY), LONGEST_RETRY)  # half the queue gone is room again
        raise OverloadedError(f"the server is overloaded: {found}. Retry after {seconds:.0f} s", seconds)

    def _charge(self, request: Request, tokens: int) -> None:
        """Counts tokens of a request as waiting no longer; more of them where the number is negative."""
        request.cost -= tokens
        self._tokens[request.terms.priority] -= tokens

    def push(self, request: Request, task: Task) -> None:
        """Queues an admitted request, now with its rows (at least one).

        Raises:
            StoppingError: the server stopped while the request was tokenised.
        """
        with self._lock:
            if self._closed:
                raise StoppingError("the server stopped before it came to this request")
            request.task = task
            self._charge(request, request.cost - task.encodings.num_tokens)
            self._waiting.push(request)
            self._arrival.notify()

    def abandon(self, request: Request) -> None:
        """Gives back what an admitted request holds that will never be queued."""
        with self._lock:
            self._charge(request, request.cost)

    def settle(self, request: Request) -> None:
        """Counts a request as answered."""
        with self._lock:
            self._settle(request)

    def _settle(self, request: Request) -> None:
        if request in self._open:
            self._open.discard(request)
            self._memory -= request.memory
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

        Requests that nobody waits for, and those that are late, are dropped here, before they cost compute.
        """
        while True:
            late: list[tuple[Request, FletcherError]] = []
            with self._lock:
                while not self._waiting and not self._closed:
                    self._arrival.wait()
                if not self._waiting:
                    return None
                pieces = self._gather(budget, late)
            for request, error in late:  # outside the lock: whoever waits for a future may call back
                if request.close():
                    request.resolve(partial(_set_error, error))
                    self.settle(request)
            if pieces:
                return pieces

    def _gather(self, budget: int, late: list[tuple[Request, FletcherError]]) -> list[Piece]:
        now = time.monotonic()
        window: list[Request] = []
        while self._waiting and len(window) < WINDOW:
            request = self._waiting.draw()
            if request.closed or request.cancelled:
                self._drop(request)
            elif (error := request.lateness(now)) is not None:
                self._charge(request, request.cost)
                late.append((request, error))
            else:
                window.append(request)
        if self.tokens > budget and len(window) > 2:
            # The one whose turn it is always goes; those of its class that are most like it go with it, so that attention
            # pads little, and others where there is room left.
            like, priority = window[0].next_length, window[0].terms.priority
            window[1:] = sorted(
                window[1:], key=lambda request: (request.terms.priority != priority, abs(request.next_length - like))
            )
        pieces: list[Piece] = []
        more: list[Request] = []
        room = budget
        for request in window:
            # A batch has one output: what late chunking asks for is another one's.
            fits = room > 0 and (not pieces or request.task.output == pieces[0].request.task.output)
            piece = request.take(room, budget, 0 if pieces else 1) if fits else None
            if piece is None:
                self._waiting.put_back(request)
                continue
            pieces.append(piece)
            room -= piece.encodings.num_tokens
            self._charge(request, piece.encodings.num_tokens)
            if not request.taken:
                more.append(request)
        if pieces:
            self._waiting.advance(pieces[0].request)
        for request in more:
            self._waiting.push(request)
        if self._waiting:
            self._arrival.notify()
        return pieces

    def _drop(self, request: Request) -> None:
        self._charge(request, request.cost)
        if request.close():
            request.resolve(partial(_set_error, StoppingError("nobody waits for this answer")))
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
            self._tokens = dict.fromkeys(PRIORITIES, 0)
            self._arrival.notify_all()
        return left


def _set_error(error: BaseException, future: Future[Any]) -> None:
    future.set_exception(error)
