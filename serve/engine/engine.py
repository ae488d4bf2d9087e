"""The one engine behind every door: it admits requests and tokenizes them; its workers compute and answer.

It knows nothing of HTTP or Flight: a door submits texts or token ids and gets a future.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

from fletcher.runtime import Embeddings, Encodings
from fletcher.runtime.embed_options import EmbedOptions
from fletcher.runtime.errors import (
    DeadlineError,
    FailingError,
    InputError,
    OverloadedError,
    StoppingError,
)
from fletcher.runtime.tasks.task import Task

from ..errors import TooLargeError
from ..observe.metrics import Metrics
from .backend import Backend
from .backlog import MAX_MEMORY, Backlog
from .failover import Device
from .request import Request
from .terms import USUAL, Terms
from .watchdog import STUCK_SECONDS
from .workers import BatchWorkers

__all__ = ["Engine"]

logger = logging.getLogger("fletcher.serve.engine.engine")

#: A request of at most this many characters is tokenized on the caller's thread: under a millisecond, and cheaper than
#: handing it to another one. The event loop is such a caller, so the bound is also what it may be held up.
INLINE_CHARACTERS = 2048

#: Tokens that may wait: 4 MB of ids, and minutes of work for a laptop, which `MAX_WAIT_SECONDS` cuts short.
MAX_QUEUE_TOKENS = 1 << 20

#: Seconds that a request may be expected to wait. The usual clients give up after 60.
MAX_WAIT_SECONDS = 30.0

#: Tokens of a request whose states late chunking keeps until the last of them came: 200 MB for 384 dimensions.
MAX_LATE_TOKENS = 1 << 17

#: Characters of a request up to which it is looked up among those under way: hashing them takes microseconds.
JOINED_CHARACTERS = 1 << 16

#: What the earlier Fletcher called counts that encoders keep.
EARLIER_NAMES = {"vector_cache_hits": "fletcher_cache_hits"}

PLAIN = EmbedOptions()


class Engine:
    """Texts or token ids in, futures of `Embeddings` out. Safe to use from any thread; a context manager that stops itself.

    Attributes:
        encoder: what computes.
        metrics: what it counts in.
        device: what runs its batches, with a breaker and a spare.
    """

    def __init__(
        self,
        encoder: Backend,
        *,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        max_request_tokens: int | None = None,
        max_memory: int = MAX_MEMORY,
        stuck_seconds: float = STUCK_SECONDS,
        spare: Callable[[], Backend] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """
        Args:
            encoder: the model; it stays the caller's to close, after the engine has stopped.
            max_queue_tokens: tokens that may wait; above it requests are refused.
            max_wait_seconds: seconds that a request may be expected to wait before it is computed.
            max_request_tokens: tokens that one request may have the model compute; None is no bound.
            max_memory: bytes that open requests may be predicted to hold.
            stuck_seconds: after so long a batch counts as stuck, and its worker as lost.
            spare: opens a second device for what the first one fails at; None has none.
            metrics: where to count; None counts for nobody.
        """
        self.encoder = encoder
        self.metrics = Metrics() if metrics is None else metrics
        self._backlog = Backlog(
            max_tokens=max_queue_tokens, max_wait=max_wait_seconds, workers=encoder.workers, max_memory=max_memory
        )
        self.device = Device(encoder, spare, self.metrics)
        self._flights: dict[Any, Request] = {}
        self._max_request_tokens = max_request_tokens
        self.metrics.gauge("fletcher_queue_tokens", "Tokens that wait for a batch", lambda: self._backlog.tokens)
        self.metrics.gauge(
            "fletcher_open_requests", "Requests admitted and not yet answered", lambda: self._backlog.open_requests
        )
        self.metrics.gauge(
            "fletcher_open_request_bytes",
            "Bytes that open requests are predicted to hold",
            lambda: self._backlog.memory,
        )
        self.metrics.gauge(
            "fletcher_batches_stuck", "Batches that the device does not answer", lambda: float(self._workers.stuck)
        )
        for name, (text, value) in encoder.counters().items():
            self.metrics.counted(f"fletcher_{name}", text, value)
            if name in EARLIER_NAMES:
                self.metrics.counted(EARLIER_NAMES[name], text, value)
        for metric in encoder.device_metrics():
            self.metrics.by_device(metric)
        self.metrics.gauge(
            "fletcher_provider_fallback",
            "1 where another provider runs than the one that was wanted",
            lambda: float(self.fallback is not None),
        )
        self._tokenizers = ThreadPoolExecutor(encoder.workers, thread_name_prefix="fletcher-tokenize")
        self._workers = BatchWorkers(encoder, self._backlog, self.device, self.metrics, stuck_seconds)

    @property
    def stopping(self) -> bool:
        """Whether it admits nothing more."""
        return self._backlog.stopping

    @property
    def failures(self) -> int:
        """Batches that the session failed so far: whoever tells others that the model is well asks it again after one."""
        return self._workers.failures

    @property
    def problem(self) -> str:
        """Why requests fail or wait for ever just now; empty where nothing is known."""
        if stuck := self._workers.stuck:
            seconds = self._workers.stuck_seconds
            return f"the device has not answered {stuck} batch{'es' if stuck > 1 else ''} for {seconds:g} s"
        if self.device.breaker.is_open:
            return "the last batches failed, one after the other"
        return ""

    def bound_memory(self, size: int) -> None:
        """Lowers what open requests may be predicted to hold, in bytes."""
        self._backlog.bound_memory(size)

    @property
    def fallback(self) -> str | None:
        """Why another provider than the wanted one computes, be it some batches; None if none does."""
        spare = self.device.opened
        if self.encoder.fallback is None and spare is not None:
            return f"{self.encoder.provider} failed, {spare.provider} computes what it fails at"
        return self.encoder.fallback

    @property
    def open_requests(self) -> int:
        """Requests admitted and not yet answered."""
        return self._backlog.open_requests

    def submit(
        self, inputs: Sequence[str] | Encodings, options: EmbedOptions = PLAIN, terms: Terms = USUAL
    ) -> Future[Embeddings]:
        """Admits a request of any size. Its vectors are those that it would get alone.

        Cancelling the future drops what of it has not been computed. The same texts with the same options, asked for while
        they are under way, are computed once.

        Args:
            inputs: texts, or token ids that are ready.
            options: how they become vectors. Token ids get no prompt.
            terms: how it waits.

        Returns:
            The embeddings, in the order of the inputs. Texts that turn out to be unusable fail here or in the future.

        Raises:
            InputError: the inputs or the options cannot be used.
            OverloadedError: too much waits already.
            DeadlineError: its deadline has passed.
            FailingError: the device fails.
            StoppingError: the server is stopping.
        """
        if options != PLAIN:
            self.encoder.check(options)
        if isinstance(inputs, Encodings):
            self._check_tokens(inputs.num_tokens)
            request = self._admit(inputs.num_tokens, terms, len(inputs))
            self._enqueue(request, self.encoder.prepare_ids(inputs, options))
            return request.future
        characters = sum(map(len, inputs))
        limit = None if options.splits else len(inputs) * self.encoder.max_tokens
        key = (tuple(inputs), options) if characters <= JOINED_CHARACTERS else None
        known = None if key is None else self._flights.get(key)
        if known is not None and (future := known.join(terms)) is not None:
            self.metrics.admitted.inc()
            self.metrics.joined.inc()
            if terms.trace is not None:
                terms.trace.joined(known.terms.trace)
            return future
        prepare = partial(self.encoder.prepare, inputs, options)
        return self._submit(prepare, characters, len(inputs), limit, terms, key, states=options.overflow == "late")

    def submit_task(
        self, prepare: Callable[[], Task], *, characters: int, rows: int, terms: Terms = USUAL
    ) -> Future[Any]:
        """Admits what a model gives besides vectors of texts: scores, sparse vectors, token vectors.

        Args:
            prepare: tokenizes; called on this thread or on another one.
            characters: of all its texts.
            rows: that it makes.
            terms: how it waits.

        Returns:
            What the task's `finish` gives.

        Raises:
            As `submit`.
        """
        return self._submit(prepare, characters, rows, rows * self.encoder.max_tokens, terms, None)

    def _submit(
        self,
        prepare: Callable[[], Task],
        characters: int,
        rows: int,
        limit: int | None,
        terms: Terms,
        key: Any,
        *,
        states: bool = False,
    ) -> Future[Any]:
        # English has about four characters a token; two keep the estimate on the safe side until the real count is known.
        cost = characters // 2 + 4 * rows
        cost = cost if limit is None else min(cost, limit)
        request = self._admit(cost, terms, rows + cost if states else rows)
        if key is not None:
            request.on_close = partial(self._landed, key)
            self._flights[key] = request
        if characters > INLINE_CHARACTERS:
            job = self._tokenizers.submit(self._tokenize, request, prepare)
            job.add_done_callback(partial(self._tokenized, request))
            return request.future
        try:
            task = self._tokenize(request, prepare)
        except BaseException as error:
            # Whoever joined meanwhile learns of it from the future, this caller from the exception.
            self._abandon(request, error if len(request.futures) > 1 else None)
            raise
        self._enqueue(request, task)
        return request.future

    def _landed(self, key: Any, request: Request) -> None:
        if self._flights.get(key) is request:
            self._flights.pop(key, None)

    def stop_admitting(self) -> None:
        """Refuses everything from now on; what was admitted is still answered."""
        self._backlog.stop()

    def stop(self, drain_seconds: float = 30.0) -> bool:
        """Stops admitting, answers what was admitted, and ends the threads.

        Args:
            drain_seconds: how long that may take; what is left then fails with `StoppingError`.

        Returns:
            Whether everything was answered.
        """
        self._backlog.stop()
        drained = self._backlog.wait_until_drained(drain_seconds)
        self._tokenizers.shutdown(wait=drained, cancel_futures=True)
        for request in self._backlog.close():
            self._workers.fail(
                request, StoppingError(f"the server stopped before it came to this request ({drain_seconds:g} s)")
            )
        self._workers.stop(drained=drained)
        return drained

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_tokens(self, count: int) -> None:
        limit = self._max_request_tokens
        if limit is not None and count > limit:
            raise TooLargeError(f"the request has {count} tokens to compute; the limit is {limit}: send several")

    def _admit(self, cost: int, terms: Terms, rows: int) -> Request:
        if self.device.failing:
            self.metrics.refused("failing")
            seconds = max(self.device.breaker.remaining(), 1.0)
            raise FailingError(
                f"the model's device failed several batches in a row; it is tried again in {seconds:.0f} s", seconds
            )
        memory = 4 * rows * self.encoder.dimension + 8 * cost
        try:
            request = self._backlog.admit(cost, terms, memory=memory)
        except (OverloadedError, StoppingError, DeadlineError) as error:
            reasons = {OverloadedError: "overloaded", StoppingError: "stopping"}
            self.metrics.refused(reasons.get(type(error), "deadline"))
            raise
        self.metrics.admitted.inc()
        return request

    def _tokenize(self, request: Request, prepare: Callable[[], Task]) -> Task | None:
        if request.cancelled:
            return None
        started = time.perf_counter()
        task = prepare()
        ended = time.perf_counter()
        self.metrics.tokenization.observe(ended - started)
        request.queued = ended
        if (stages := request.terms.stages) is not None:
            stages.wait += started - request.admitted
            stages.tokenize += ended - started
        if (trace := request.terms.trace) is not None:
            trace.stage("tokenize", started, ended, {"fletcher.tokens": task.encodings.num_tokens})
        self._check_tokens(task.encodings.num_tokens)
        if task.by_token and task.encodings.num_tokens > MAX_LATE_TOKENS:
            raise InputError(
                f"the states of {task.encodings.num_tokens} tokens are too much for one request; the limit is "
                f"{MAX_LATE_TOKENS}: send the texts one by one, or use windows"
            )
        return task

    def _tokenized(self, request: Request, job: Future[Task | None]) -> None:
        if job.cancelled():
            error: BaseException | None = StoppingError("the server stopped before it came to this request")
        else:
            error = job.exception()
        if error is not None:
            self._abandon(request, error)
        else:
            self._enqueue(request, job.result())

    def _abandon(self, request: Request, error: BaseException | None = None) -> None:
        """Ends a request that never reaches the queue; without an error its caller has it already."""
        self._backlog.abandon(request)
        if error is not None:
            self._workers.fail(request, error)
        elif request.close():
            self._backlog.settle(request)

    def _enqueue(self, request: Request, task: Task | None) -> None:
        if task is None:  # cancelled while it waited for the tokenizer
            self._abandon(request)
        elif len(task.encodings):
            try:
                self._backlog.push(request, task)
            except StoppingError as error:
                self._workers.fail(request, error)
        else:  # no text, or none that is not known already
            self._backlog.abandon(request)
            request.task = task
            self._workers.answer(request, np.empty((0, self.encoder.dimension), np.float32))
