"""`OpenRequest`: a request between its admission and its answer, with its callers and the state of its rows."""

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
from .price import Price
from .rows_request import RowsRequest
from .terms import WEIGHTS, Flow, Terms

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["SHORTEST_RETRY", "OpenRequest", "Piece"]

#: Smallest number of seconds that a rejected client should wait before it tries again.
SHORTEST_RETRY = 1.0


class OpenRequest:
    """An admitted request. The admission's lock guards its fields until all its rows are in batches.

    Attributes:
        request: the request's data.
        futures: futures of the answer, one for each caller.
        terms: the request's terms; a caller that joins may extend the deadline.
        draft: record that receives the request's stages, or None.
        price: predicted cost at admission.
        flow: the client and class whose share it uses.
        cost: number of its tokens that wait: a prediction until it is tokenized; 0 while it waits for room in the queue.
        memory: predicted memory until it is answered, in bytes; 0 while it waits for room in the queue.
        admitted: `time.perf_counter()` at admission.
        queued: `time.perf_counter()` at the start of its wait for the first batch; None after that stage was reported.
        expires: `time.monotonic()` at which its wait for the first batch becomes too long; infinite for a part of a stream.
        due: `time.monotonic()` from which it may be too late: the earlier one of `expires` and the deadline.
        key: identity of the request, by which equal requests find it; None if they do not look for it.
        place: position in the queue.
        task: its rows; set after it was tokenized.
        encodings: token ids of the task.
        untaken: number of rows that are not in a batch yet.
        parked: True if the queue had no room for it at its admission.
        settled: True after it was answered, with a result or an error.
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
        "flow",
        "futures",
        "key",
        "lock",
        "memory",
        "parked",
        "place",
        "price",
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
        price: Price,
        flow: Flow,
        *,
        expires: float,
        key: object = None,
        draft: RecordDraft | None = None,
    ) -> None:
        """Start to wait for tokenizing.

        Args:
            request, price, flow, expires, key, draft: see the attributes.
        """
        self.request = request
        self.futures: list[Future[Any]] = [Future()]
        self.terms = request.terms
        self.draft = draft
        self.price = price
        self.flow = flow
        self.cost = 0
        self.memory = 0
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
        self.parked = False
        self.settled = False
        self.lock = threading.Lock()
        self._next = 0
        self._order: NDArray[np.int64] | None = None
        self._totals: NDArray[np.int64]
        self._values: NDArray[np.float32] | None = None
        self._pending_rows = 0

    def join(self, terms: Terms) -> Future[Any] | None:
        """Return another future of the same answer; None if the request is settled, cancelled, or less urgent.

        Args:
            terms: terms of the caller that joins. The later one of the two deadlines then applies to the request.
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
        """Return True if every caller has cancelled the request."""
        return all(map(Future.cancelled, self.futures))

    def reason_to_drop(self, now: float) -> FletcherError | None:
        """Return the error for a request that need not be computed, or None if it must be computed."""
        if all(map(Future.cancelled, self.futures)):
            return StoppingError("every caller of this request has cancelled it")
        if self.terms.deadline is not None and now >= self.terms.deadline:
            return DeadlineError("the request's deadline passed before it was computed")
        if now >= self.expires and self._next == 0:
            waited = time.perf_counter() - self.admitted
            return OverloadedError(
                f"the server is overloaded: the request waited {waited:.1f} s, longer than expected. Retry after "
                f"{SHORTEST_RETRY:.0f} s",
                SHORTEST_RETRY,
            )
        return None

    @property
    def next_length(self) -> float:
        """Return the tokens per text of its next rows: the mean of all rows, or the longest remaining row if it is split."""
        if self._order is None:
            return self.encodings.num_tokens / len(self.encodings)
        return float(self.encodings.lengths[self._order[self._next]])

    def take(self, room: int, budget: int, at_least: int) -> Piece | None:
        """Take the next rows that fit into a batch.

        Args:
            room: number of tokens that still fit into the batch.
            budget: number of tokens of a full batch. A request that fits into one batch is not split.
            at_least: number of rows to take even if they do not fit, so that a text longer than a batch is computed alone.

        Returns:
            The rows, or None if no row fits.
        """
        encodings = self.encodings
        if self._next == 0 and encodings.num_tokens <= room:
            self._next, self.untaken = self.untaken, 0
            return Piece(self, None, encodings, True)
        if self._order is None:
            if encodings.num_tokens <= budget:
                return None
            # The longest rows come first: rows of similar lengths share a batch, and the last pieces take little time.
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
        """Store the values of a piece.

        Args:
            rows: row numbers of the piece, int64, (m,).
            values: float32, (m, dimension), or (tokens of the rows, dimension) for a task with values for each token.

        Returns:
            All values of the request after its last piece; None before that.
        """
        each = self.task.rows
        with self.lock:
            if self._values is None:
                count = len(self.encodings) if each is None else each.count(self.encodings)
                self._values = np.empty((count, values.shape[1]), values.dtype)
        # Two pieces do not have a common row, so this does not need the lock.
        self._values[rows if each is None else each.places(self.encodings, rows)] = values
        with self.lock:
            self._pending_rows -= len(rows)
            return None if self._pending_rows else self._values


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a request that are in one batch.

    Attributes:
        request: the request.
        rows: row numbers, int64, (m,), or None for all rows in order.
        encodings: token ids of these rows.
        first: True if this is the request's first piece.
    """

    request: OpenRequest
    rows: NDArray[np.int64] | None
    encodings: Encodings
    first: bool
