"""`RemoteEngine`: a version's engine as a front sees it: it tokenizes here, and the engine process computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from fletcher.runtime.errors import DeadlineError, InputError, OverloadedError, StoppingError
from fletcher.runtime.inputs import Pairs, TokenIds

from ...byte_budget import ByteBudget
from ...engine.backend import Backend
from ...engine.embed_request import PLAIN, EmbedRequest
from ...engine.engine import INLINE_CHARACTERS, INLINE_IDS, MAX_QUEUE_TOKENS
from ...engine.fairness.shares import Shares
from ...engine.fairness.turn_pool import TurnPool
from ...engine.price import price_of
from ...engine.rows_request import RowsRequest
from ...engine.terms import Flow, Terms
from ...observe.metrics import Metrics
from ...request_limits import check_chunks, check_pairs, check_tokens
from ..channel.link import EngineLink, RowsOf, Waiting
from .backend import FrontBackend

if TYPE_CHECKING:
    from ...observe.requests import RecordDraft

__all__ = ["RemoteEngine"]


class RemoteEngine:
    """Requests in, futures of answers out. Safe to use from any thread.

    Attributes:
        backend: tokenizer and description of the version.
        metrics: receives the counts.
    """

    #: Batches that failed: the engine process counts them.
    failures = 0
    #: Reason why requests fail: the engine process knows it.
    problem = ""
    fallback: str | None = None

    def __init__(
        self,
        backend: FrontBackend,
        link: EngineLink,
        tokenizers: TurnPool,
        metrics: Metrics,
        *,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_request_tokens: int | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        """Begin to take requests.

        Args:
            backend: tokenizer and description of the version.
            link: connection to the engine process.
            tokenizers: threads that tokenize long requests.
            metrics: receives the counts.
            max_queue_tokens: largest number of tokens, by estimate, of long requests that wait for a thread; clients share
                it by the rules of the engine's queue.
            max_request_tokens: largest number of tokens of one request that the model computes; None means without limit.
            budget: bytes of bodies and answers. Default: a new budget.
        """
        self.backend: Backend = backend
        self.metrics = metrics
        self.stopping = False
        self._entry = backend.entry
        self._link = link
        self._tokenizers = tokenizers
        self._shares = Shares(max_queue_tokens, backend.info.token_budget)  # of long requests that wait for a thread
        self._max_request_tokens = max_request_tokens
        self._budget = ByteBudget() if budget is None else budget
        self._open = 0
        self._changed = threading.Condition()
        for name, (text, value) in backend.metrics().counters.items():
            metrics.counted(f"fletcher_{name}", text, value)
        metrics.gauge("fletcher_front_requests", "Open requests in front processes", lambda: self._open)

    @property
    def open_requests(self) -> int:
        """Return the number of requests that are not yet answered."""
        return self._open

    def bound_memory(self, size: int) -> None:
        """Lower the bound of the bodies and answers of all fronts; the engine process bounds the rows of open requests."""
        self._budget.lower(size)

    def set_spare(self, spare: Callable[[], Backend]) -> None:
        """Do nothing: the engine process has the spare backend."""

    def submit(self, request: EmbedRequest | RowsRequest, draft: RecordDraft | None = None) -> Future[Any]:
        """Tokenize a request and send it to the engine process.

        Args:
            request: the request.
            draft: record that receives the request's stages.

        Returns:
            The answer, as of `Engine.submit`.

        Raises:
            InputError: the inputs or the options cannot be used.
            DeadlineError: its deadline has passed.
            FailingError: the engine process cannot be reached.
            OverloadedError: too many long requests wait here, or the engine process does not read what was sent to it.
            StoppingError: the front is stopping.
        """
        if isinstance(request, RowsRequest):
            raise InputError("a front tokenizes itself: send texts, token ids or pairs")
        info = self.backend.info
        if request.output == "vectors" and request.options != PLAIN:
            info.check(request.options)
        price = price_of(request, info)
        if isinstance(request.inputs, TokenIds):
            check_tokens(self._max_request_tokens, price.tokens)
        elif isinstance(request.inputs, Pairs):
            check_pairs(request.inputs, price.characters)
        deadline = request.terms.deadline
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineError("the request's deadline had passed when it came")
        long = price.characters > INLINE_CHARACTERS or price.ids > INLINE_IDS
        try:
            self._link.check(request.terms)
            flow = self._take(request.terms, price.tokens if long else 0)
        except OverloadedError:
            self.metrics.refused("overloaded")
            raise
        future: Future[Any] = Future()
        future.add_done_callback(self._close)
        if flow is not None:

            def prepare() -> None:
                with self._changed:
                    self._shares.charge(flow, price.tokens, 0)
                    self._shares.leave(flow)
                self._prepare_on_thread(request, future, draft)

            self._tokenizers.submit(request.terms.client, prepare)
            return future
        try:
            self._prepare(request, future, draft)
        except BaseException:
            future.cancel()
            future.set_running_or_notify_cancel()
            raise
        return future

    def _take(self, terms: Terms, queued_tokens: int) -> Flow | None:
        """Count a request, and the tokens that wait for a thread.

        Returns:
            The flow of the waiting tokens; None if none wait.

        Raises:
            OverloadedError: too many wait.
            StoppingError: the front is stopping.
        """
        flow = None
        with self._changed:
            if self.stopping:
                raise StoppingError("the server is stopping: send the request to another one, or again later")
            if queued_tokens:
                flow = self._shares.enter(terms)
                reason = None if terms.stream else self._shares.refusal(flow, queued_tokens)
                if reason is not None:
                    self._shares.leave(flow)
                    raise OverloadedError(f"the server's tokenizer is overloaded: {reason}. Retry after 1 s", 1.0)
                self._shares.charge(flow, 0, queued_tokens)
            self._open += 1
        return flow

    def _prepare_on_thread(self, request: EmbedRequest, future: Future[Any], draft: RecordDraft | None) -> None:
        try:
            if not future.cancelled():
                self._prepare(request, future, draft)
        except BaseException as error:  # noqa: BLE001 (the caller gets it)
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _prepare(self, request: EmbedRequest, future: Future[Any], draft: RecordDraft | None) -> None:
        started = time.perf_counter()
        task = self.backend.prepare(request.inputs, request.options, request.output)
        seconds = time.perf_counter() - started
        self.metrics.tokenization.observe(seconds)
        if draft is not None:
            draft.stages.tokenize += seconds
        encodings = task.encodings
        if self._max_request_tokens is not None or task.rows is not None:
            check_tokens(self._max_request_tokens, encodings.num_tokens, by_token=task.rows is not None)
        if request.options.splits:
            check_chunks(request.options, encodings.num_tokens, len(encodings))
        spec = self._entry.spec
        kind = RowsOf(
            model=spec.name,
            version=spec.version,
            digest=self._entry.info.digest,
            output=task.output,
            value_rows=task.rows,
            has_types=encodings.token_types is not None,
            terms=request.terms,
        )
        waiting = Waiting(kind, task, future, draft)
        if len(encodings):
            self._link.post(waiting)
        else:  # a request without texts
            waiting.settle(np.empty((0, self.backend.info.dimension), np.float32))

    def _close(self, future: Future[Any]) -> None:
        if future.cancelled():
            self.metrics.cancelled.inc()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def stop_admitting(self) -> None:
        """Reject everything from now on; open requests are still answered."""
        with self._changed:
            self.stopping = True

    def stop(self, drain_seconds: float = 30.0) -> bool:
        """Stop admitting, and wait for the open requests; return whether all were answered in time."""
        self.stop_admitting()
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, drain_seconds)
