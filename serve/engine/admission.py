"""`Admission`: limits of the open requests. It admits requests, joins equal ones, and settles each of them once.

Limits are by client (`fairness/shares.py`). A request above a limit is rejected. A part of a stream waits for room instead.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fletcher.runtime.errors import DeadlineError, FletcherError, OverloadedError, ProviderError, StoppingError

from ..observe.metrics import Metrics
from .embed_request import EmbedRequest
from .fairness.drain_rate import DrainRate
from .fairness.parking import Parking
from .fairness.shares import OCCUPIED, Shares
from .open_request import SHORTEST_RETRY, OpenRequest
from .price import Price
from .rows_request import RowsRequest
from .terms import Flow, Terms

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["MAX_MEMORY", "Admission"]

#: Limit of the predicted memory of all open requests in bytes: token ids, and vectors until they are answered.
MAX_MEMORY: Final = 1 << 30

#: A queued request is dropped after twice the wait that was estimated at its admission, within the limits below.
EXPECTED_WAIT_FACTOR: Final = 2.0

#: A queued request is never dropped before `max_wait`, and always after 1.25 times `max_wait`. If its batch then takes three
#: quarters of `max_wait`, it is answered within twice `max_wait`.
MAX_WAIT_FACTOR: Final = 1.25

#: Largest number of seconds that a rejected client should wait before it tries again.
LONGEST_RETRY: Final = 60.0


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
        shares: waiting tokens by client.
        parked: parts of streams that wait for room.
        resume: function that tokenizes and queues a part of a stream for which there is room now. It is called with the lock.
    """

    def __init__(self, *, shares: Shares, max_wait: float, max_memory: int, metrics: Metrics, rate: DrainRate) -> None:
        """Start without open requests.

        Args:
            shares: waiting tokens by client, with their limit.
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
        self.shares = shares
        self.parked = Parking()
        self.resume: Callable[[OpenRequest], None] = lambda request: None
        self._max_wait = max_wait
        self._metrics = metrics
        self._drained = threading.Condition(self.lock)
        self._open: dict[OpenRequest, None] = {}  # in the order of arrival, in which a stop fails them

    @property
    def count(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    @property
    def expected_seconds(self) -> float:
        """Return the seconds until all waiting tokens are computed; 0 before the speed is known."""
        speed = self.rate.tokens_per_second
        return self.tokens / speed if speed else 0.0

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
            The open request. A part of a stream may be parked: `resume` gets it when there is room.

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
                flow = self.shares.enter(terms)
                patience = self._max_wait
                if terms.stream:
                    patience = math.inf
                elif self._open:
                    try:
                        patience = self._patience(flow, price, terms, now)
                    except OverloadedError:
                        self.shares.leave(flow)
                        raise
                admitted = OpenRequest(request, price, flow, expires=now + patience, key=key, draft=draft)
                self._open[admitted] = None
                if terms.stream and (flow in self.parked.flows or self._refusal(flow, price) is not None):
                    admitted.parked = True
                    self.parked.add(admitted)
                else:
                    self._hold(admitted)
        except FletcherError as error:
            reasons = {OverloadedError: "overloaded", StoppingError: "stopping"}
            self._metrics.refused(reasons.get(type(error), "deadline"))
            raise
        if key is not None:
            self.joinable[key] = admitted
        self._metrics.admitted.inc(request.requests if isinstance(request, RowsRequest) else 1)
        return admitted

    def _patience(self, flow: Flow, price: Price, terms: Terms, now: float) -> float:
        """Return the seconds that a request may wait for its first batch.

        Raises:
            OverloadedError: too many tokens wait, memory is short, or the expected wait is longer than the limit or the
                deadline allows.
        """
        wait, speed = 0.0, self.rate.tokens_per_second
        if self.tokens and speed:
            wait = (
                self.tokens / speed
            )  # all waiting tokens: only if they are many, it is worth to count those before it
            if wait * EXPECTED_WAIT_FACTOR > self._max_wait or (
                terms.deadline is not None and wait > terms.deadline - now
            ):
                wait = self.shares.tokens_before(flow) / speed
        reason = self._refusal(flow, price)
        if reason is not None:
            _reject(reason, wait)
        before = f"the requests before this one are about {wait:.1f} s of work"
        if wait > self._max_wait:
            _reject(f"{before}, and the limit is {self._max_wait:g} s", wait)
        if terms.deadline is not None and wait > (left := terms.deadline - now):
            _reject(f"{before}, and the deadline is in {left:.1f} s", wait)
        # A request in a long queue may wait longer before it is dropped.
        return max(self._max_wait, min(EXPECTED_WAIT_FACTOR * wait, MAX_WAIT_FACTOR * self._max_wait))

    def _refusal(self, flow: Flow, price: Price) -> str | None:
        """Return the reason why the queue does not have room for a request, or None."""
        reason = self.shares.refusal(flow, price.tokens)
        if reason is None and self.memory:
            limit = int(self.max_memory * OCCUPIED) if flow.client.memory else self.max_memory
            if self.memory + price.memory > limit:
                return (
                    f"open requests hold about {self.memory >> 20} MiB, and with this request they would hold more than "
                    f"{limit >> 20} MiB"
                )
        return reason

    def _hold(self, request: OpenRequest) -> None:
        """Give a request its share of tokens and memory. The caller holds the lock."""
        price = request.price
        self.charge(request, -price.tokens)
        request.memory = price.memory
        self.memory += price.memory
        request.flow.client.memory += price.memory

    def resume_parked(self) -> None:
        """Give room to parked requests. The caller holds the lock."""
        now = time.monotonic()

        def fits(request: OpenRequest) -> bool:
            # A request that need not be computed leaves at once: `resume` ends it.
            return self._refusal(request.flow, request.price) is None or request.reason_to_drop(now) is not None

        while (request := self.parked.take(fits)) is not None:
            if not request.settled:
                self._hold(request)
                self.resume(request)

    def join(self, key: object, terms: Terms, draft: RecordDraft | None) -> Future[Any] | None:
        """Return a future of an equal open request; None if there is no such request that the caller can wait for.

        Args:
            key: identity of the request.
            terms: terms of the caller.
            draft: the caller's record, or None. Its trace is linked to the trace of the open request.
        """
        same = self.joinable.get(key)
        if same is None or (same.terms.client != terms.client and same.flow.tokens > same.cost):
            return None  # the request of another client waits behind others of that client, and the caller's would not
        future = same.join(terms)
        if future is None:
            return None
        self._metrics.admitted.inc()
        self._metrics.joined.inc()
        if draft is not None and draft.trace is not None:
            draft.trace.joined(None if same.draft is None else same.draft.trace)
        return future

    def charge(self, request: OpenRequest, tokens: int) -> None:
        """Subtract tokens of a request from the waiting ones; a negative number adds tokens. The caller holds the lock."""
        before = request.cost
        request.cost = before - tokens
        self.tokens -= tokens
        self.shares.charge(request.flow, before, before - tokens)

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
            self._open.pop(request, None)
            self.memory -= request.memory
            request.flow.client.memory -= request.memory
            self.shares.leave(request.flow)
            if self.parked.flows:
                self.resume_parked()
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
            self.parked.clear()
            requests = list(self._open)
        for request in requests:
            self.settle(request, error=error)


def _reject(reason: str, wait: float) -> NoReturn:
    seconds = min(max(wait / 2, SHORTEST_RETRY), LONGEST_RETRY)  # half of the queue is empty by then
    raise OverloadedError(f"the server is overloaded: {reason}. Retry after {seconds:.0f} s", seconds)
