"""`OpenRequest`: a request from its admission to its answer: its callers, and its rows' way through batches."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import DeadlineError, FletcherError, OverloadedError, StoppingError
from fletcher.runtime.tasks.task import Task

from .embed_request import EmbedRequest
from .rows_request import RowsRequest
from .terms import WEIGHTS, Terms

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["SHORTEST_RETRY", "OpenRequest", "Piece"]

#: Least number of seconds after which a rejected client should try again.
SHORTEST_RETRY = 1.0


class OpenRequest:
    """An admitted request. Its fields belong to the admission's lock until its rows are taken.

    Attributes:
        request: the request's data.
        futures: the answer, one future per caller of the same request.
        terms: the request's terms; a caller who joins may extend the deadline.
        draft: record that receives the request's stages, or None.
        cost: tokens that it counts for in the queue: predicted until it is tokenized.
        memory: bytes that it is predicted to hold until it is answered.
        admitted: `time.perf_counter()` at admission.
        queued: `time.perf_counter()` since which it waits for its first batch; None after that stage was reported.
        expires: `time.monotonic()` after which it has waited too long for its first batch.
        due: `time.monotonic()` from which on it may be too late: the earlier of `expires` and its deadline.
        key: identity of the request for callers of the same one; None if it is not looked up.
        place: position in the queue.
        task: its rows, after it was tokenized.
        encodings: token ids of the task.
        untaken: rows that are in no batch yet.
        settled: whether it was answered, with a result or an error.
        lock: guards `settled` and `futures`.
    """

    __slots__ = (
        "_next",
        "_order",
        "_pending_rows",
        "_totals",
        "_values",
        "admitted",
        "cost",
        "draft",
        "due",
        "encodings",
        "expires",
        "futures",
        "key",
        "lock",
        "memory",
        "place",
        "queued",
        "request",
        "settled",
        "task",
        "terms",
        "untaken",
    )

    def __init__(
        self,
        request: EmbedRequest | RowsRequest,
        cost: int,
        memory: int,
        *,
        expires: float,
        key: object = None,
        draft: RecordDraft | None = None,
    ) -> None:
        """Begin to wait.

        Args:
            request, cost, memory, expires, key, draft: see above.
        """
        self.request = request
        self.futures: list[Future[Any]] = [Future()]
        self.terms = request.terms
        self.draft = draft
        self.cost = cost
        self.memory = memory
        self.admitted = time.perf_counter()
        self.queued: float | None = self.admitted
        self.expires = expires
        deadline = request.terms.deadline
        self.due = expires if deadline is None else min(expires, deadline)
        self.key = key
        self.place = (0.0, 0)
        self.task: Task
        self.encodings: Encodings
        self.untaken = 0
        self.settled = False
        self.lock = threading.Lock()
        self._next = 0
        self._order: NDArray[np.int64] | None = None
        self._totals: NDArray[np.int64]
        self._values: NDArray[np.float32] | None = None
        self._pending_rows = 0

    def join(self, terms: Terms) -> Future[Any] | None:
        """Return another future for the same answer; None if the request is settled, cancelled, or less urgent.

        Args:
            terms: terms of the caller who joins; the request then lives until the later of the two deadlines.
        """
        if WEIGHTS[terms.priority] > WEIGHTS[self.terms.priority]:
            return None
        with self.lock:
            if self.settled or self.cancelled:
                return None
            deadline = self.terms.deadline
            if deadline is not None and (terms.deadline is None or terms.deadline > deadline):
                self.terms = msgspec.structs.replace(self.terms, deadline=terms.deadline)
                self.due = self.expires if terms.deadline is None else min(self.expires, terms.deadline)
            future: Future[Any] = Future()
            self.futures.append(future)
            return future

    @property
    def cancelled(self) -> bool:
        """Return whether every caller has cancelled."""
        return all(map(Future.cancelled, self.futures))

    def reason_to_drop(self, now: float) -> FletcherError | None:
        """Return the error that makes computing the request useless, or None."""
        if all(map(Future.cancelled, self.futures)):
            return StoppingError("every caller of this request has cancelled it")
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
    def next_length(self) -> float:
        """Return the tokens per text that it would give to a batch now: their mean, or the longest of a split request."""
        if self._order is None:
            return self.encodings.num_tokens / len(self.encodings)
        return float(self.encodings.lengths[self._order[self._next]])

    def take(self, room: int, budget: int, at_least: int) -> Piece | None:
        """Take the next rows that fit into a batch.

        Args:
            room: tokens left in the batch.
            budget: tokens of a whole batch: a request that fits one is never split.
            at_least: rows to take even if they do not fit, so that a text longer than a batch is one by itself.
        """
        encodings = self.encodings
        if self._next == 0 and encodings.num_tokens <= room:
            self._next, self.untaken = self.untaken, 0
            return Piece(self, None, encodings, True)
        if self._order is None:
            if encodings.num_tokens <= budget:
                return None
            # Longest first: similar lengths meet, and the pieces that finish the request are the cheap ones.
            self._order = np.argsort(-encodings.lengths, kind="stable")
            self._totals = np.cumsum(encodings.lengths[self._order])
            self._pending_rows = len(self._order)
        done = self._totals[self._next - 1] if self._next else 0
        end = max(int(np.searchsorted(self._totals, done + room, side="right")), self._next + at_least)
        if end == self._next:
            return None
        rows, first = self._order[self._next : end], self._next == 0
        self._next, self.untaken = end, len(self._order) - end
        return Piece(self, rows, encodings.select(rows), first)

    def fill(self, rows: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Put a piece's values in place; return all values after the last piece came."""
        by_token = self.task.by_token
        with self.lock:
            if self._values is None:
                count = self.encodings.num_tokens if by_token else len(self.encodings)
                self._values = np.empty((count, values.shape[1]), values.dtype)
        # Pieces have no row in common, so this needs no lock.
        self._values[self.encodings.token_index(rows) if by_token else rows] = values
        with self.lock:
            self._pending_rows -= len(rows)
            return None if self._pending_rows else self._values


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of a request that are in one batch.

    Attributes:
        request: the request.
        rows: row numbers, int64, (m,), or None for all rows in order.
        encodings: those rows' token ids.
        first: whether no row of the request was in an earlier batch.
    """

    request: OpenRequest
    rows: NDArray[np.int64] | None
    encodings: Encodings
    first: bool
