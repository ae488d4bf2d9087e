"""`Judge`: properties of admission, queue and byte budget, checked between the turns of a run and at each batch."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from fletcher.runtime.errors import FletcherError
from fletcher.serve.access.limits.ledger import OPEN, TableLedger
from fletcher.serve.byte_budget import ByteBudget, Holder
from fletcher.serve.engine.admission import Admission
from fletcher.serve.engine.backend import Backend
from fletcher.serve.engine.backlog import Backlog
from fletcher.serve.engine.engine import Engine
from fletcher.serve.engine.fairness.order import FairQueue
from fletcher.serve.engine.open_request import OpenRequest, Piece
from fletcher.serve.engine.terms import SHARES

from ..stage.standins import Time
from ..stage.world import Violation, World, the_world

__all__ = ["AuditedBudget", "Judge", "observed", "require"]

#: Limit of the requests of a client that are open at the same time.
IN_FLIGHT = 4

#: Turns between two checks of the counts.
EVERY = 5

#: A request counts for at most this share of the queue's limit, or for so many tokens (docs/howto/fairness.md).
LARGEST_SHARE, LEAST_COUNTED = 32, 4096


def require(condition: object, message: str) -> None:
    """Raise `Violation` unless a condition holds."""
    if not condition:
        raise Violation(message)


class AuditedBudget(ByteBudget):
    """A byte budget that knows what each request holds."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._held: Counter[int] = Counter()
        self._lock = threading.Lock()  # a real one, so that the sum and the parts below change together

    def hold(self, size: int, holder: Holder | None = None) -> None:
        the_world().pause()
        super().hold(size, holder)
        if size > 0:
            require(self.used <= self.limit, f"{self.used} bytes are held; the limit is {self.limit}")
        self._held[id(holder)] += size
        if not self._held[id(holder)]:
            del self._held[id(holder)]

    def check(self) -> None:
        """Compare the sum with what each request holds."""
        require(self.used == self._held.total(), f"{self.used} bytes are held; requests hold {self._held.total()}")
        require(min(self._held.values(), default=0) >= 0, "a request gave back more bytes than it held")


@dataclass(slots=True)
class _Queue:
    """State of a queue since it was last empty.

    Attributes:
        batches: number of batches that were formed.
        seen: flows that had requests. A request that was dropped counts for its client as if it had been computed.
        served: flows of which rows were computed.
        newcomers: the first request of each flow that waits for its first turn, with the last batch that may leave it out.
    """

    batches: int = 0
    seen: set[tuple[str, str]] = field(default_factory=set)
    served: set[tuple[str, str]] = field(default_factory=set)
    newcomers: dict[OpenRequest, int] = field(default_factory=dict)


class Judge:
    """Properties of the engines of one run.

    Attributes:
        engines: the engines that were made.
        undrained: backends whose engines stopped before everything was answered; which must not be closed.
        budget: the byte budget.
        ledger: counts the use of limits by key.
    """

    def __init__(self, world: World, budget: AuditedBudget, queue_tokens: int) -> None:
        self.ledger = TableLedger(clocks=Time)
        self._table = np.frombuffer(self.ledger._table, np.int64).reshape(-1, self.ledger._width)
        self.engines: list[Engine] = []
        self.undrained: list[Backend] = []
        self.budget = budget
        self._world = world
        self._queue_tokens = queue_tokens
        self._most = max(queue_tokens // LARGEST_SHARE, LEAST_COUNTED)
        self._queues: defaultdict[int, _Queue] = defaultdict(_Queue)
        self._turns = 0

    def watch(self) -> None:
        """Check the counts now and then; called between turns."""
        self._turns += 1
        if self._turns % EVERY == 0:
            self.check()

    def check(self) -> None:
        """Compare all counts with what is open."""
        self.budget.check()
        require(self.in_flight <= IN_FLIGHT, f"a client has {self.in_flight} requests in flight")
        for engine in self.engines:
            if not engine.admission.lock.locked():
                self._check_counts(engine.admission)

    @property
    def in_flight(self) -> int:
        """Return the number of open requests of clients with limits, as the ledger counts them."""
        opens = self._table[:, OPEN]
        require(opens.min() >= 0, "a client has fewer than no requests in flight")
        return int(opens.sum())

    def _check_counts(self, admission: Admission) -> None:
        opened = list(admission._open)
        require(admission.count == len(opened), "the number of open requests")
        tokens, memory = sum(each.cost for each in opened), sum(each.memory for each in opened)
        require(admission.tokens == tokens, f"{admission.tokens} tokens wait; open requests have {tokens}")
        require(admission.memory == memory, f"{admission.memory} bytes are held; open requests hold {memory}")
        flows, clients = admission.shares._flows, admission.shares._clients
        require(sum(flow.open for flow in flows.values()) == len(opened), "open requests by flow")
        require(sum(flow.tokens for flow in flows.values()) == tokens, "tokens by flow")
        by_client = Counter(each.terms.client for each in opened)
        require({name: one.open for name, one in clients.items()} == by_client, "open requests by client")
        require(sum(one.memory for one in clients.values()) == memory, "memory by client")
        require(sum(one.counted for one in clients.values()) == admission.shares.counted, "counted tokens")
        require(all(one.counted >= 0 for one in clients.values()), "a client has fewer than no tokens")

    def hold(self, admission: Admission, request: OpenRequest) -> None:
        """Check the limits before a request gets its share of them."""
        price, counted = request.price, admission.shares.counted
        limit = self._queue_tokens * SHARES[request.terms.priority]
        need = min(price.tokens, self._most)
        dropped = request.reason_to_drop(self._world.now) is not None  # a parked one that only leaves
        require(
            dropped or not counted or counted + need <= limit,
            f"{counted} tokens wait and {need} are admitted; the limit is {limit}",
        )
        require(
            dropped or not admission.memory or admission.memory + price.memory <= admission.max_memory,
            f"{admission.memory} bytes are held and {price.memory} are admitted",
        )

    def push(self, queue: FairQueue, request: OpenRequest) -> None:
        """Note the first request of a flow since the queue was empty."""
        state = self._queues[id(queue)]
        if not queue.heap:
            state.seen.clear()
            state.served.clear()
            state.newcomers.clear()
        flow = _flow(request)
        waiting = {_flow(item if isinstance(item, OpenRequest) else item.parts[0]) for _, _, item in queue.heap}
        if flow not in state.seen:
            # Each other flow may have one request with the same start on the virtual clock, and an earlier number.
            state.newcomers[request] = state.batches + len(waiting) + 1
        state.seen.add(flow)

    def batch(self, backlog: Backlog, gather: Callable[..., list[Piece]], budget: int, dropped: Any) -> list[Piece]:
        """Form a batch, and check its size, its order, and that it has nothing that need not be computed."""
        queue = backlog._waiting
        now = self._world.now
        unwanted = {
            part: part.terms.deadline
            for _, _, item in queue.heap
            for part in ([item] if isinstance(item, OpenRequest) else item.parts)
            if part.cancelled or (part.terms.deadline is not None and part.terms.deadline <= now)
        }
        pieces = gather(backlog, budget, dropped)
        state = self._queues[id(queue)]
        tokens = sum(piece.encodings.num_tokens for piece in pieces)
        require(tokens <= budget or (len(pieces) == 1 and len(pieces[0].encodings) == 1), f"a batch of {tokens} tokens")
        for piece in pieces:
            request = piece.request
            same = request in unwanted and unwanted[request] == request.terms.deadline
            require(not (same and not _rescued(request)), "a cancelled or late request is computed")
            state.served.add(_flow(request))
        if pieces:
            state.batches += 1
            self._world.note(
                f"batch of {tokens} tokens: {[(*_flow(piece.request), piece.request.price.rows) for piece in pieces]}"
            )
        leaving = {request for request, _ in dropped}
        for request, last in list(state.newcomers.items()):
            # An earlier part of its stream, which came later, may be served instead of it.
            if request.settled or request in leaving or request.cancelled or _flow(request) in state.served:
                del state.newcomers[request]
            else:
                require(state.batches <= last, f"the first request of {_flow(request)} waits for too many batches")
        return pieces


def _rescued(request: OpenRequest) -> bool:
    """Return whether another caller joined a cancelled request while the batch was formed."""
    return not request.cancelled and request.terms.deadline is None


def _flow(request: OpenRequest) -> tuple[str, str]:
    return request.terms.priority, request.terms.client


@contextmanager
def observed(judge: Callable[[], Judge]) -> Iterator[None]:
    """Let a judge see what admissions and queues do.

    Args:
        judge: returns the judge of the present run.
    """
    gather, hold, push = Backlog._gather, Admission._hold, FairQueue.push

    def gathering(self: Backlog, budget: int, dropped: list[tuple[OpenRequest, FletcherError]]) -> list[Piece]:
        return judge().batch(self, gather, budget, dropped)

    def holding(self: Admission, request: OpenRequest) -> None:
        judge().hold(self, request)
        hold(self, request)

    def pushing(self: FairQueue, request: OpenRequest) -> None:
        judge().push(self, request)
        push(self, request)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Backlog, "_gather", gathering))
        stack.enter_context(mock.patch.object(Admission, "_hold", holding))
        stack.enter_context(mock.patch.object(FairQueue, "push", pushing))
        yield
