"""One request from admission to answer: who waits for it, what of it is in which batch, and when it is too late."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import DeadlineError, FletcherError, OverloadedError
from fletcher.runtime.tasks.task import Task

from .terms import USUAL, WEIGHTS, Terms

__all__ = ["SHORTEST_RETRY", "Piece", "Request"]

#: Seconds that a refused client is told to wait at least.
SHORTEST_RETRY = 1.0


class Request:
    """One submission, from admission to answer. Its fields belong to the backlog's lock until its rows are taken.

    Attributes:
        futures: the answer, once for each caller that asked the same.
        terms: how it waits.
        cost: tokens that it holds of the backlog's limit: an estimate until it is tokenized.
        memory: bytes that it is predicted to hold until it is answered.
        admitted: `time.perf_counter()` at admission.
        queued: `time.perf_counter()` since which it waits for its first batch; None once it was told to its trace.
        expires: `time.monotonic()` after which it has waited too long for its first batch.
        place: where it stands in the queue.
        task: its rows, once it is tokenized.
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
        "queued",
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
        self.queued: float | None = self.admitted
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
                self.terms = replace(self.terms, deadline=terms.deadline)
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
        """Its token ids, once it is tokenized."""
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
                self.values = np.empty((count, values.shape[1]), values.dtype)
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
            return Piece(self, None, self.encodings, True)
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
        rows, first = self._order[self._next : end], self._next == 0
        self._next = end
        return Piece(self, rows, self.encodings.select(rows), first)


@dataclass(frozen=True, slots=True)
class Piece:
    """What of a request is in a batch.

    Attributes:
        request: whose it is.
        rows: which of its rows, int64, (m,), or None for all of them in order.
        encodings: those rows' token ids.
        first: whether nothing of the request was in a batch before.
    """

    request: Request
    rows: NDArray[np.int64] | None
    encodings: Encodings
    first: bool
