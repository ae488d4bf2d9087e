"""`Engine`: turns requests to one model into answers. It admits and tokenizes requests, and its workers compute them.

It does not depend on HTTP or Flight: they submit an `EmbedRequest` and get a future.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from fletcher.runtime.errors import StoppingError
from fletcher.runtime.inputs import Pairs, Texts, TokenIds, has_long
from fletcher.runtime.tasks.task import Task

from ..byte_budget import ByteBudget
from ..observe.metrics import Metrics
from ..request_limits import check_chunks, check_pairs, check_tokens, too_large
from .admission import MAX_MEMORY, Admission
from .backend import Backend
from .backlog import Backlog
from .embed_request import PLAIN, EmbedRequest
from .failover import Failover
from .fairness.drain_rate import DrainRate
from .fairness.shares import Shares
from .fairness.token_estimate import TokenEstimate
from .fairness.turn_pool import TurnPool
from .open_request import OpenRequest
from .price import price_of, price_of_rows
from .rows_request import RowsRequest
from .watchdog import STUCK_SECONDS
from .workers import BatchWorkers

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["INLINE_CHARACTERS", "INLINE_IDS", "Engine"]

logger = logging.getLogger("fletcher.serve.engine.engine")

#: Largest number of characters of a request that is tokenized on the caller's thread. That takes less than a millisecond,
#: which is faster than to use another thread. The caller can be the event loop, so this also limits the time for which it
#: is blocked.
INLINE_CHARACTERS: Final = 2048

#: Largest number of token ids of a request that is checked on the caller's thread: more take over a millisecond.
INLINE_IDS: Final = 8192

#: Largest number of waiting tokens: 4 MB of ids. A laptop needs minutes for them, so there `MAX_WAIT_SECONDS` is the
#: effective limit.
MAX_QUEUE_TOKENS: Final = 1 << 20

#: Longest expected wait of a request in seconds. Most clients cancel a request after 60 s.
MAX_WAIT_SECONDS: Final = 30.0

#: Largest number of characters of a request that is compared with open requests. It takes microseconds to hash them.
JOINED_CHARACTERS: Final = 1 << 16

#: Second metric names of counts that a backend keeps.
ALIASES: Final = {"vector_cache_hits": "fletcher_cache_hits"}


class Engine:
    """Engine of one model: it takes requests and returns futures of answers. A context manager. Safe to use from any thread.

    Attributes:
        backend: the model.
        metrics: receives the counts.
        failover: runs the batches, with a breaker and a spare backend.
        admission: admits and settles requests.
        budget: bytes of bodies and answers, which a memory limit also bounds; None if another process has them.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        max_request_tokens: int | None = None,
        max_memory: int = MAX_MEMORY,
        stuck_seconds: float = STUCK_SECONDS,
        spare: Callable[[], Backend] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Start to admit requests.

        Args:
            backend: the model; the caller closes it after the engine has stopped.
            max_queue_tokens: largest number of waiting tokens; above it requests are rejected.
            max_wait_seconds: longest expected wait of a request before it is computed.
            max_request_tokens: largest number of tokens that one request lets the model compute; None for no limit.
            max_memory: limit of the predicted memory of all open requests, in bytes.
            stuck_seconds: seconds after which a batch counts as stuck, and its worker as lost.
            spare: opens a second backend for the batches that fail on the first one; None for no second backend.
            metrics: receives the counts. Default: new metrics.
        """
        self.backend = backend
        self.metrics = metrics = Metrics() if metrics is None else metrics
        self.failover = Failover(backend, spare, metrics)
        self.admission = Admission(
            shares=Shares(max_queue_tokens, backend.info.token_budget),
            max_wait=max_wait_seconds,
            max_memory=max_memory,
            metrics=metrics,
            rate=DrainRate(backend.info.workers),
        )
        self.admission.resume = self._resume
        self._info = backend.info
        self.budget: ByteBudget | None = None
        self._estimate = TokenEstimate()
        self._backlog = Backlog(self.admission, small_tokens=self._info.small_tokens, devices=self._info.devices)
        self._max_request_tokens = max_request_tokens
        self._tokenizers = TurnPool(self._info.workers, "fletcher-tokenize")
        self._workers = BatchWorkers(self.admission, self._backlog, self.failover, metrics, stuck_seconds)
        self._register_metrics()  # last: a scrape on another thread may read the values at once

    def _register_metrics(self) -> None:
        metrics, admission = self.metrics, self.admission
        metrics.gauge("fletcher_queue_tokens", "Tokens that wait for a batch", lambda: admission.tokens)
        metrics.gauge(
            "fletcher_queue_seconds",
            "Seconds until the waiting tokens are computed, at the present speed",
            lambda: admission.expected_seconds,
        )
        metrics.gauge(
            "fletcher_open_requests", "Requests that were admitted and are not answered yet", lambda: admission.count
        )
        metrics.gauge(
            "fletcher_open_request_bytes", "Predicted memory of open requests in bytes", lambda: admission.memory
        )
        metrics.gauge(
            "fletcher_parked_requests",
            "Parts of streams that wait for room in the queue",
            lambda: admission.parked.count,
        )
        metrics.gauge(
            "fletcher_batches_stuck", "Batches that the device does not answer", lambda: float(self._workers.stuck)
        )
        counts = self.backend.metrics()
        for name, (text, value) in counts.counters.items():
            metrics.counted(f"fletcher_{name}", text, value)
            if name in ALIASES:
                metrics.counted(ALIASES[name], text, value)
        for metric in counts.devices:
            metrics.by_device(metric)
        metrics.gauge(
            "fletcher_provider_fallback",
            "Models that run on another provider than the requested one",
            lambda: float(self.fallback is not None),
        )

    @property
    def stopping(self) -> bool:
        """Return True if it rejects all new requests."""
        return self.admission.stopping

    @property
    def failures(self) -> int:
        """Return the number of failed batches so far. After a failure, `Readiness` checks the canary again."""
        return self._workers.failures

    @property
    def problem(self) -> str:
        """Return the reason why requests fail or do not end now; empty if they are answered."""
        if stuck := self._workers.stuck:
            seconds = self._workers.stuck_seconds
            return f"the device has not answered {stuck} batch{'es' if stuck > 1 else ''} for {seconds:g} s"
        if self.failover.breaker.is_open:
            return f"the last {self.failover.breaker.failures} batches failed"
        return ""

    def bound_memory(self, size: int) -> None:
        """Lower the limit of the predicted memory of open requests. Admitted requests continue.

        Args:
            size: the new limit in bytes; a value above the present limit has no effect.
        """
        self.admission.max_memory = min(self.admission.max_memory, size)
        if self.budget is not None:
            self.budget.lower(size)

    def set_spare(self, spare: Callable[[], Backend]) -> None:
        """Let a second backend compute the batches that the first one fails at; `spare` opens it when it is needed."""
        self.failover.spare = spare

    @property
    def fallback(self) -> str | None:
        """Return the reason why another provider than the requested one computes at least some batches, or None."""
        info, spare = self.backend.info, self.failover.opened
        if info.fallback is None and spare is not None:
            return f"{info.provider} failed; {spare.info.provider} computes the batches that fail"
        return info.fallback

    @property
    def open_requests(self) -> int:
        """Return the number of requests that were admitted and are not answered yet."""
        return self.admission.count

    def submit(self, request: EmbedRequest | RowsRequest, draft: RecordDraft | None = None) -> Future[Any]:
        """Admit a request of any size. Its answer is the same as if it were computed alone.

        If the caller cancels the future, the part of the request that has not been computed is dropped. Open requests with
        equal texts and equal options are computed once. A part of a stream waits until the queue has room for it.

        Args:
            request: the request.
            draft: record that receives the request's stages. It belongs to this process, so it is not a part of the request.

        Returns:
            A future of the answer: `Embeddings`, `Scores`, `SparseEmbeddings` or `TokenEmbeddings`, in the order of the
            inputs. Its error is an `InputError` if inputs that cannot be used were tokenized on another thread. Of a
            `RowsRequest`, the values of the graph, float32 or float16, (rows, dimension), or (tokens, dimension) by token.

        Raises:
            InputError: the inputs or the options cannot be used.
            TooLargeError: the request has more tokens than the limit of a request.
            OverloadedError: too many requests wait.
            DeadlineError: the request's deadline has passed.
            FailingError: the device fails.
            StoppingError: the engine is stopping.
        """
        if isinstance(request, RowsRequest):
            return self._submit_rows(request, draft)
        inputs, options, vectors = request.inputs, request.options, request.output == "vectors"
        if vectors and options != PLAIN:
            self._info.check(options)
        price = price_of(request, self._info, self._estimate.ratio)
        if isinstance(inputs, TokenIds):
            check_tokens(self._max_request_tokens, price.tokens)
        elif isinstance(inputs, Pairs):
            check_pairs(inputs, price.characters)
        if price.memory > self.admission.max_memory:
            raise too_large(price.memory, self.admission.max_memory)
        key: object = None
        # A part of a stream is computed in its place in the stream, so it does not join another request.
        if vectors and isinstance(inputs, Texts) and price.characters <= JOINED_CHARACTERS and not request.terms.stream:
            key = inputs.texts, options, request.terms.salt
            if key in self.admission.joinable:
                future = self.admission.join(key, request.terms, draft)
                if future is not None:
                    return future
        if self.failover.breaker.failures:
            self.failover.check()
        admitted = self.admission.admit(request, price, key=key, draft=draft)
        if admitted.parked:
            return admitted.futures[0]
        if price.characters > INLINE_CHARACTERS or price.ids > INLINE_IDS:
            try:
                self._tokenizers.submit(request.terms.client, partial(self._prepare, admitted))
            except RuntimeError:  # the pool was shut down after the request was admitted
                error = StoppingError("the server stopped before it computed this request")
                self.admission.settle(admitted, error=error)
        else:
            self._prepare(admitted)
        return admitted.futures[0]

    def _resume(self, admitted: OpenRequest) -> None:
        """Tokenize and queue a part of a stream that waited for room. The admission calls this method with its lock."""
        rows = isinstance(admitted.request, RowsRequest)
        with suppress(RuntimeError):  # the pool was shut down: `stop` ends all open requests
            self._tokenizers.submit(
                admitted.terms.client, partial(self._push_rows if rows else self._prepare, admitted)
            )

    def _submit_rows(self, request: RowsRequest, draft: RecordDraft | None) -> Future[Any]:
        """Admit rows that another process has tokenized. That process bounds the tokens of a client's request."""
        if self.failover.breaker.failures:
            self.failover.check()
        admitted = self.admission.admit(request, price_of_rows(request, self._info), draft=draft)
        if not admitted.parked:
            self._push_rows(admitted)
        return admitted.futures[0]

    def _push_rows(self, admitted: OpenRequest) -> None:
        """Queue an admitted request of rows. If that fails, settle the request and raise the error."""
        request = admitted.request
        assert isinstance(request, RowsRequest)
        try:
            if admitted.futures[0].cancelled() and (dropped := admitted.reason_to_drop(time.monotonic())) is not None:
                raise dropped
            task = self.backend.prepare_rows(
                request.encodings, request.output, rows=request.rows, salt=request.terms.salt
            )
        except BaseException as error:
            self.admission.settle(admitted, error=error)
            raise
        if len(task.encodings):
            self._backlog.push(admitted, task)
        else:
            self._answer_empty(admitted, task)

    def _prepare(self, admitted: OpenRequest) -> None:
        """Tokenize an admitted request and queue it. If that fails, settle the request and raise the error."""
        request = admitted.request
        assert isinstance(request, EmbedRequest)
        started = time.perf_counter()
        try:
            if admitted.futures[0].cancelled() and (dropped := admitted.reason_to_drop(time.monotonic())) is not None:
                raise dropped
            task = self.backend.prepare(request.inputs, request.options, request.output, salt=request.terms.salt)
            ended, tokens = time.perf_counter(), task.encodings.num_tokens
            self.metrics.tokenization.observe(ended - started)
            if (price := admitted.price).characters > INLINE_CHARACTERS and len(task.encodings) == price.rows:
                dropped_tokens = int(task.encodings.dropped.sum())
                if not dropped_tokens or not has_long(
                    request.inputs
                ):  # of long texts, not all dropped tokens are known
                    self._estimate.learn(price.characters, price.rows, tokens + dropped_tokens)
            admitted.queued = ended
            if (draft := admitted.draft) is not None:
                draft.stages.wait += started - admitted.admitted
                draft.stages.tokenize += ended - started
                if draft.trace is not None:
                    draft.trace.stage("tokenize", started, ended, {"fletcher.tokens": tokens})
            if self._max_request_tokens is not None or task.rows is not None:
                check_tokens(self._max_request_tokens, tokens, by_token=task.rows is not None)
            if request.options.splits:
                check_chunks(request.options, tokens, len(task.encodings))
        except BaseException as error:
            # Callers that joined the request get the error from their futures; a caller on this thread gets an exception.
            self.admission.settle(admitted, error=error)
            raise
        if len(task.encodings):
            self._backlog.push(admitted, task)
        else:
            self._answer_empty(admitted, task)

    def _answer_empty(self, admitted: OpenRequest, task: Task) -> None:
        """Answer a request without a row to compute: it has no texts, or the cache has all of them."""
        admitted.task = task
        self._workers.answer(admitted, np.empty((0, self._info.dimension), np.float32))

    def stop_admitting(self) -> None:
        """Reject all new requests. Admitted requests are still answered."""
        self.admission.stop()

    def stop(self, drain_seconds: float = 30.0) -> bool:
        """Stop admitting requests, answer the admitted ones, and end the threads.

        Args:
            drain_seconds: longest time to answer the admitted requests; the remaining ones fail with `StoppingError`.

        Returns:
            True if every admitted request was answered, and no batch is being computed. A device that does not answer holds
            a batch after its requests have failed; then the backend must not be closed, because that would wait for it.
        """
        self.admission.stop()
        drained = self.admission.wait_until_drained(drain_seconds)
        self._tokenizers.shutdown(wait=drained, cancel=True)
        self._backlog.close()
        self.admission.settle_all(
            StoppingError(f"the server stopped after {drain_seconds:g} s, before it computed this request")
        )
        return self._workers.stop(drained=drained) and drained

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
