"""Requests that wait, and how they become batches. It counts tokens and knows nothing of models, HTTP or Flight."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Any, NoReturn

from fletcher.runtime.errors import DeadlineError, FletcherError, OverloadedError, StoppingError
from fletcher.runtime.tasks.task import Task

from .drain_rate import DrainRate
from .fair_queue import FairQueue
from .request import SHORTEST_RETRY, Piece, Request
from .terms import PRIORITIES, SHARES, USUAL, WEIGHTS, Priority, Terms

__all__ = ["MAX_MEMORY", "Backlog"]

#: Requests looked at for one batch when more wait than it holds: enough to find similar lengths, cheap to sort.
WINDOW = 256

#: How much of the measured speed the newest full batch is.
NEWEST = 0.2

#: Bytes that open requests may be predicted to hold: token ids, and vectors until they are answered.
MAX_MEMORY = 1 << 30

#: Times the wait that was expected when it came that a request may wait, where that is more than the usual limit; and times
#: the limit that it may wait at most: with a batch that takes three quarters of it, it is answered within twice the limit.
PATIENCE, MOST_PATIENCE = 2.0, 1.25

#: Seconds that a refused client is told to wait at most.
LONGEST_RETRY = 60.0


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
        self._drain = DrainRate()

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
            # A deep queue is given the time that it needs; past that, something went wrong.
            patience = max(self._max_wait, min(PATIENCE * wait, MOST_PATIENCE * self._max_wait))
            request = Request(cost, terms, memory=memory, expires=now + patience)
            self._tokens[terms.priority] += cost
            self._memory += memory
            self._open.add(request)
        return request

    def _expected_wait(self, priority: Priority) -> float:
        """Seconds until a request of a class is in a batch: what waits, as far as it goes before it; 0 where nobody knows."""
        speed = self._drain.value or self._tokens_per_second
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
            StoppingError: the server stopped while the request was tokenized.
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
        """Learns the speed from a full batch, until the queue's own rate is known: small ones say nothing about a queue."""
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
        if pieces:
            self._drain.took(budget - room, now, waiting=bool(self._waiting))
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
