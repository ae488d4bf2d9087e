"""`Admission`: limits of the open requests. It admits requests, joins equal ones, and settles each of them once.

`Price` is the predicted cost of a request. Admission compares it with the limits.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from fletcher.runtime.errors import DeadlineError, FletcherError, OverloadedError, ProviderError, StoppingError
from fletcher.runtime.inputs import Pairs, TokenIds
from fletcher.runtime.model_info import ModelInfo

from ..observe.metrics import Metrics
from .drain_rate import DrainRate
from .embed_request import EmbedRequest
from .open_request import SHORTEST_RETRY, OpenRequest
from .rows_request import RowsRequest
from .terms import PRIORITIES, SHARES, WEIGHTS, Priority, Terms

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["MAX_MEMORY", "Admission", "Price", "price_of", "price_of_rows"]

#: Limit of the predicted memory of all open requests in bytes: token ids, and vectors until they are answered.
MAX_MEMORY: Final = 1 << 30

#: A queued request is dropped after twice the wait that was estimated at its admission, within the limits below.
EXPECTED_WAIT_FACTOR: Final = 2.0

#: A queued request is never dropped before `max_wait`, and always after 1.25 times `max_wait`. If its batch then takes three
#: quarters of `max_wait`, it is answered within twice `max_wait`.
MAX_WAIT_FACTOR: Final = 1.25

#: Largest number of seconds that a rejected client should wait before it tries again.
LONGEST_RETRY: Final = 60.0


class Price(msgspec.Struct, frozen=True):
    """Predicted cost of a request, known before it is tokenized.

    Attributes:
        characters: number of characters of all texts; 0 for token ids.
        ids: number of token ids that the client sent; 0 for texts.
        rows: number of rows of the answer.
        tokens: number of tokens to compute: an upper estimate for texts, exact for token ids.
        memory: bytes that the request holds until it is answered.
    """

    characters: int
    ids: int
    rows: int
    tokens: int
    memory: int


def price_of(request: EmbedRequest, info: ModelInfo) -> Price:
    """Return the predicted cost of a request to a model.

    English has about four characters per token. The estimate is high until the real count is known: it assumes two characters
    per token, and four tokens per row for the prompt and special tokens. A row is not longer than the longest input, unless
    texts are split. A token takes 4 bytes for its id and 4 bytes for the copy in a batch. The vector of a row takes
    `dimension` float32 values. Late chunking also holds a vector for each token.
    """
    inputs, options = request.inputs, request.options
    characters = ids = 0
    if isinstance(inputs, TokenIds):
        rows = len(inputs.rows)
        lengths = [len(row) for row in inputs.rows]
        ids, tokens = sum(lengths), sum(min(length, info.max_tokens) for length in lengths)
    else:
        if isinstance(inputs, Pairs):
            rows = len(inputs.documents)
            characters = sum(map(len, inputs.documents)) + sum(map(len, inputs.queries))
        else:
            rows = len(inputs.texts)
            characters = sum(map(len, inputs.texts))
        tokens, most = characters // 2 + 4 * rows, rows * info.max_tokens
        if tokens > most and not options.splits:
            tokens = most
    vectors = rows + tokens if options.overflow == "late" else rows
    return Price(characters, ids, rows, tokens, 4 * vectors * info.dimension + 8 * tokens)


def price_of_rows(request: RowsRequest, info: ModelInfo) -> Price:
    """Return the cost of rows that are tokenized; its tokens are exact."""
    rows, tokens = len(request.encodings), request.encodings.num_tokens
    vectors = tokens if request.by_token else rows
    return Price(0, tokens, rows, tokens, 4 * vectors * info.dimension + 8 * tokens)


class Admission:
    """Open requests: admitted and not yet settled. Safe to use from any thread.

    Attributes:
        lock: guards the counts here and the queue of waiting requests.
        tokens: number of admitted tokens that are not yet in a batch.
        memory: predicted memory of the open requests in bytes.
        max_memory: limit of `memory`.
        stopping: True if every new request is rejected.
        joinable: open requests by their identity.
        rate: speed at which the queue empties.
    """

    def __init__(self, *, max_tokens: int, max_wait: float, max_memory: int, metrics: Metrics, rate: DrainRate) -> None:
        """Start without open requests.

        Args:
            max_tokens: largest number of waiting tokens. A single larger request is admitted if no other request waits.
            max_wait: longest expected wait for the first batch, in seconds.
            max_memory: limit of the predicted memory of all open requests, in bytes.
            metrics: receives the counts of admitted, rejected and settled requests.
            rate: speed at which the queue empties.
        """
        self.lock = threading.Lock()
        self.tokens = 0
        self.memory = 0
        self.max_memory = max_memory
        self.stopping = False
        self.joinable: dict[object, OpenRequest] = {}
        self.rate = rate
        self._max_tokens = max_tokens
        self._max_wait = max_wait
        self._metrics = metrics
        self._drained = threading.Condition(self.lock)
        self._tokens_of = dict.fromkeys(PRIORITIES, 0)
        self._open: set[OpenRequest] = set()

    @property
    def count(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    def admit(
        self,
        request: EmbedRequest | RowsRequest,
        price: Price,
        *,
        key: object = None,
        draft: RecordDraft | None = None,
    ) -> OpenRequest:
        """Admit a request, or reject it before it uses memory or compute.

        Args:
            request: the request.
            price: its predicted cost.
            key: identity of the request; equal requests may join it while it is open. None: no request may join it.
            draft: record that receives its stages, or None.

        Returns:
            The open request.

        Raises:
            StoppingError: the server is stopping.
            DeadlineError: the deadline has passed.
            OverloadedError: too many tokens wait, the expected wait is too long, or memory is short.
        """
        now = time.monotonic()
        terms = request.terms
        try:
            with self.lock:
                if self.stopping:
                    raise StoppingError("the server is stopping: send the request to another server, or again later")
                if terms.deadline is not None and terms.deadline <= now:
                    raise DeadlineError("the request's deadline had passed when it arrived")
                wait = self._check_room(price.tokens, terms, now) if self.tokens else 0.0
                if self._open and self.memory + price.memory > self.max_memory:
                    _reject(
                        f"open requests hold about {self.memory >> 20} MiB, and with this request they would hold more than "
                        f"{self.max_memory >> 20} MiB",
                        wait,
                    )
                # A request in a long queue may wait longer before it is dropped.
                patience = max(self._max_wait, min(EXPECTED_WAIT_FACTOR * wait, MAX_WAIT_FACTOR * self._max_wait))
                admitted = OpenRequest(
                    request, price.tokens, price.memory, expires=now + patience, key=key, draft=draft
                )
                self.tokens += price.tokens
                self._tokens_of[terms.priority] += price.tokens
                self.memory += price.memory
                self._open.add(admitted)
        except FletcherError as error:
            reasons = {OverloadedError: "overloaded", StoppingError: "stopping"}
            self._metrics.refused(reasons.get(type(error), "deadline"))
            raise
        if key is not None:
            self.joinable[key] = admitted
        self._metrics.admitted.inc(request.requests if isinstance(request, RowsRequest) else 1)
        return admitted

    def _check_room(self, tokens: int, terms: Terms, now: float) -> float:
        """Return the expected wait in seconds.

        Raises:
            OverloadedError: too many tokens wait, or the expected wait is longer than the limit or the deadline allows.
        """
        limit, waiting = int(self._max_tokens * SHARES[terms.priority]), self.tokens
        wait = self._expected_wait(terms.priority)
        if waiting + tokens > limit:
            _reject(f"{waiting} tokens wait, and this request has {tokens}; the limit is {limit}", wait)
        if wait > self._max_wait:
            _reject(f"{waiting} tokens wait, about {wait:.1f} s of work, and the limit is {self._max_wait:g} s", wait)
        if terms.deadline is not None and wait > (left := terms.deadline - now):
            _reject(f"{waiting} tokens wait, about {wait:.1f} s of work, and the deadline is in {left:.1f} s", wait)
        return wait

    def _expected_wait(self, priority: Priority) -> float:
        """Return the expected seconds until a new request of a class is in a batch; 0 while the queue's speed is unknown."""
        speed = self.rate.tokens_per_second
        if not speed:
            return 0.0
        weight = WEIGHTS[priority]
        return sum(tokens * min(1.0, WEIGHTS[kind] / weight) for kind, tokens in self._tokens_of.items()) / speed

    def join(self, key: object, terms: Terms, draft: RecordDraft | None) -> Future[Any] | None:
        """Return a future of an equal open request; None if there is no such request that the caller can wait for.

        Args:
            key: identity of the request.
            terms: terms of the caller.
            draft: the caller's record, or None. Its trace is linked to the trace of the open request.
        """
        same = self.joinable.get(key)
        future = None if same is None else same.join(terms)
        if same is None or future is None:
            return None
        self._metrics.admitted.inc()
        self._metrics.joined.inc()
        if draft is not None and draft.trace is not None:
            draft.trace.joined(None if same.draft is None else same.draft.trace)
        return future

    def charge(self, request: OpenRequest, tokens: int) -> None:
        """Subtract tokens of a request from the waiting ones; a negative number adds tokens. The caller holds the lock."""
        request.cost -= tokens
        self.tokens -= tokens
        self._tokens_of[request.terms.priority] -= tokens

    def settle(self, request: OpenRequest, answer: object = None, error: BaseException | None = None) -> None:
        """End a request. Every request ends here, for any reason. Only the first call has an effect.

        The method answers all callers, counts those that had cancelled, and releases the request's tokens and memory.

        Args:
            request: an admitted request.
            answer: the result of its task.
            error: the error if there is no answer. An error that is not a `FletcherError` becomes a `ProviderError`.
        """
        with request.lock:
            if request.settled:
                return
            request.settled = True
        if request.key is not None and self.joinable.get(request.key) is request:
            self.joinable.pop(request.key, None)
        if error is not None and not isinstance(error, FletcherError):
            failure = ProviderError(f"the session failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            error = failure
        left = 0
        for future in request.futures:
            if not future.set_running_or_notify_cancel():
                left += 1
            elif error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)
        if left:
            self._metrics.cancelled.inc(left)
        with self.lock:
            if request.cost:
                self.charge(request, request.cost)
            self._open.discard(request)
            self.memory -= request.memory
            if not self._open:
                self._drained.notify_all()

    def stop(self) -> None:
        """Reject all new requests."""
        with self.lock:
            self.stopping = True

    def wait_until_drained(self, seconds: float) -> bool:
        """Wait until every admitted request is settled; return False if the time ran out first."""
        with self.lock:
            return self._drained.wait_for(lambda: not self._open, seconds)

    def settle_all(self, error: FletcherError) -> None:
        """End every open request with an error."""
        with self.lock:
            requests = list(self._open)
        for request in requests:
            self.settle(request, error=error)


def _reject(reason: str, wait: float) -> NoReturn:
    seconds = min(max(wait / 2, SHORTEST_RETRY), LONGEST_RETRY)  # half of the queue is empty by then
    raise OverloadedError(f"the server is overloaded: {reason}. Retry after {seconds:.0f} s", seconds)
