"""The one engine behind every door: it admits requests, forms batches, computes them on its workers, and answers.

It knows nothing of HTTP or Flight: a door submits texts or token ids and gets a future.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Embeddings, Encodings
from fletcher.runtime.embed_options import EmbedOptions
from fletcher.runtime.errors import (
    DeadlineError,
    FailingError,
    FletcherError,
    InputError,
    OverloadedError,
    ProviderError,
    StoppingError,
)
from fletcher.runtime.tasks import Task

from .backend import Backend
from .backlog import MAX_MEMORY, Backlog, Piece, Request
from .breaker import Breaker
from .errors import TooLargeError
from .metrics import Metrics
from .terms import USUAL, Terms
from .watchdog import STUCK_SECONDS, Watchdog

__all__ = ["Engine"]

logger = logging.getLogger("fletcher.serve.engine")

#: A request of at most this many characters is tokenised on the caller's thread: under a millisecond, and cheaper than
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

PLAIN = EmbedOptions()


class Engine:
    """Texts or token ids in, futures of `Embeddings` out. Safe to use from any thread; a context manager that stops itself.

    Attributes:
        encoder: what computes.
        metrics: what it counts in.
        breaker: opens where the device fails again and again.
        spare: opens a second device for what the first one fails at, or None.
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
        self.breaker = Breaker()
        self._flights: dict[Any, Request] = {}
        self.spare = spare
        self._spare: Backend | None = None
        self._spare_lock = threading.Lock()
        self._watchdog = Watchdog(stuck_seconds, self._lost)
        self._max_request_tokens = max_request_tokens
        self._failures = 0
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
            "fletcher_batches_stuck", "Batches that the device does not answer", lambda: float(self._watchdog.stuck)
        )
        for name, (text, value) in encoder.counters().items():
            self.metrics.counted(f"fletcher_{name}", text, value)
        self.metrics.gauge(
            "fletcher_provider_fallback",
            "1 where another provider runs than the one that was wanted",
            lambda: float(self.fallback is not None),
        )
        self._tokenizers = ThreadPoolExecutor(encoder.workers, thread_name_prefix="fletcher-tokenize")
        self._threads: list[threading.Thread] = []
        for _ in range(encoder.workers):
            self._begin_worker()

    @property
    def stopping(self) -> bool:
        """Whether it admits nothing more."""
        return self._backlog.stopping

    @property
    def failures(self) -> int:
        """Batches that the session failed so far: whoever tells others that the model is well asks it again after one."""
        return self._failures

    @property
    def problem(self) -> str:
        """Why requests fail or wait for ever just now; empty where nothing is known."""
        if stuck := self._watchdog.stuck:
            return (
                f"the device has not answered {stuck} batch{'es' if stuck > 1 else ''} for {self._watchdog.limit:g} s"
            )
        if self.breaker.is_open:
            return "the last batches failed, one after the other"
        return ""

    def bound_memory(self, size: int) -> None:
        """Lowers what open requests may be predicted to hold, in bytes."""
        self._backlog.bound_memory(size)

    @property
    def fallback(self) -> str | None:
        """Why another provider than the wanted one computes, be it some batches; None if none does."""
        if self.encoder.fallback is None and self._spare is not None:
            return f"{self.encoder.provider} failed, {self._spare.provider} computes what it fails at"
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
            return future
        prepare = partial(self.encoder.prepare, inputs, options)
        return self._submit(prepare, characters, len(inputs), limit, terms, key, states=options.overflow == "late")

    def submit_task(
        self, prepare: Callable[[], Task], *, characters: int, rows: int, terms: Terms = USUAL
    ) -> Future[Any]:
        """Admits what a model gives besides vectors of texts: scores, sparse vectors, token vectors.

        Args:
            prepare: tokenises; called on this thread or on another one.
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
            self._fail(
                request, StoppingError(f"the server stopped before it came to this request ({drain_seconds:g} s)")
            )
        self._watchdog.stop()
        if drained:
            for thread in self._threads:
                if not self._watchdog.is_lost(thread):
                    thread.join()
        device, self._spare, self.spare = self._spare, None, None
        close = getattr(device, "close", None)
        if drained and close is not None:
            close()
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
        if self.breaker.is_open and self.spare is None:
            self.metrics.refused("failing")
            seconds = max(self.breaker.remaining(), 1.0)
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
        self.metrics.tokenization.observe(time.perf_counter() - started)
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
            self._fail(request, error)
        elif request.close():
            self._backlog.settle(request)

    def _enqueue(self, request: Request, task: Task | None) -> None:
        if task is None:  # cancelled while it waited for the tokenizer
            self._abandon(request)
        elif len(task.encodings):
            try:
                self._backlog.push(request, task)
            except StoppingError as error:
                self._fail(request, error)
        else:  # no text, or none that is not known already
            self._backlog.abandon(request)
            request.task = task
            self._answer(request, np.empty((0, self.encoder.dimension), np.float32))

    def _begin_worker(self) -> None:
        thread = threading.Thread(target=self._work, name=f"fletcher-worker-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        """A worker's life."""
        budget = self.encoder.token_budget
        while (pieces := self._backlog.take(budget)) is not None:
            with self._watchdog.watch(pieces) as watched:
                self._compute(pieces)
            if watched.lost:  # another worker took its place
                return

    def _lost(self, pieces: Sequence[Piece]) -> None:
        """A batch is stuck: its requests are told, and a new worker takes the place of the one that waits for it."""
        logger.error("the device does not answer", extra={"fields": {"seconds": self._watchdog.limit}})
        self._failures += 1
        self._begin_worker()
        for piece in pieces:
            self._fail(
                piece.request, ProviderError(f"the device did not answer a batch within {self._watchdog.limit:g} s")
            )

    def _compute(self, pieces: Sequence[Piece]) -> None:
        """Runs one batch and answers the requests that it completes."""
        batch = pieces[0].encodings if len(pieces) == 1 else _join(pieces)
        started = time.perf_counter()
        try:
            by_token = pieces[0].request.task.by_token
            values = self._run(batch, pieces[0].request.task.output)
            finite = self._check(values, batch.num_tokens if by_token else len(batch))
        except Exception as error:
            # Whatever it is, it must fail its own request only, and never the thread that serves all the others.
            self._failures += 1
            if len(pieces) > 1:
                for piece in pieces:
                    self._compute([piece])
                return
            if not isinstance(error, FletcherError):
                logger.exception("a batch of %d tokens failed", batch.num_tokens)
            self._fail(pieces[0].request, error)
            return
        seconds = time.perf_counter() - started
        self._count_batch(batch, pieces, started, seconds)
        self.metrics.vectors.inc(len(batch))
        start = 0
        for piece in pieces:
            end = start + (piece.encodings.num_tokens if by_token else len(piece.encodings))
            if finite is not None and not finite[start:end].all():
                self._fail(piece.request, ProviderError("the session gave NaN or infinity, which is no vector"))
            elif piece.rows is None:
                self._answer(piece.request, values[start:end])
            elif (whole := piece.request.fill(piece.rows, values[start:end])) is not None:
                self._answer(piece.request, whole)
            start = end

    def _run(self, batch: Encodings, output: str | None) -> NDArray[np.float32]:
        """Computes on the device; what it fails at once more on the spare one, if there is one."""
        if self.spare is not None and self.breaker.is_open:
            return self._on_spare(batch, output)
        try:
            values = self.encoder.run(batch, output)
        except Exception:
            self.breaker.fail()
            if self.spare is None:
                raise
            logger.warning("a batch failed; it runs again on the spare device", exc_info=True)
            return self._on_spare(batch, output)
        self.breaker.succeed()
        return values

    def _on_spare(self, batch: Encodings, output: str | None) -> NDArray[np.float32]:
        with self._spare_lock:
            if self._spare is None:
                assert self.spare is not None
                self._spare = self.spare()
        self.metrics.retried.inc()
        return self._spare.run(batch, output)

    def _check(self, values: NDArray[np.float32], rows: int) -> NDArray[np.bool_] | None:
        """Which rows are finite, or None where all are."""
        if values.shape != (rows, self.encoder.dimension):
            raise ProviderError(f"the session gave values of shape {values.shape} where {rows} rows were wanted")
        finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(values), axis=1)
        if finite.all():
            return None
        self._failures += 1
        return finite

    def _count_batch(self, batch: Encodings, pieces: Sequence[Piece], started: float, seconds: float) -> None:
        if batch.num_tokens * 2 >= self.encoder.token_budget:
            self._backlog.measured(batch.num_tokens, seconds)
        metrics = self.metrics
        metrics.batch_seconds.observe(seconds)
        metrics.batch_tokens.observe(batch.num_tokens)
        metrics.batch_texts.observe(len(batch))
        metrics.tokens.inc(batch.num_tokens)
        metrics.dropped.inc(int(batch.dropped.sum()))
        metrics.padding.inc(len(batch) * int(batch.lengths.max()) - batch.num_tokens)
        for piece in pieces:
            metrics.queued.observe(started - piece.request.admitted)

    def _answer(self, request: Request, values: NDArray[np.float32]) -> None:
        if not request.close():
            return
        started = time.perf_counter()
        try:
            answer = request.task.finish(values)
        except Exception as error:  # it must fail this request only, as in `_compute`
            logger.exception("a request of %d rows could not be finished", len(request.encodings))
            failure = ProviderError(f"the vectors could not be made: {type(error).__name__}")
            left = request.resolve(lambda future: future.set_exception(failure))
        else:
            self.metrics.output.observe(time.perf_counter() - started)
            left = request.resolve(lambda future: future.set_result(answer))
        if left:
            self.metrics.cancelled.inc(left)
        self._backlog.settle(request)

    def _fail(self, request: Request, error: BaseException) -> None:
        if not request.close():
            return
        if not isinstance(error, FletcherError):
            failure = ProviderError(f"the session failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            error = failure
        request.resolve(lambda future: future.set_exception(error))
        self._backlog.settle(request)


def _join(pieces: Sequence[Piece]) -> Encodings:
    """The pieces' token ids as one batch; for dozens of one-text pieces, where every numpy call is one too many."""
    parts = [piece.encodings for piece in pieces]
    if any(part.token_types is not None for part in parts):
        return Encodings.concatenate(parts)
    offsets = [np.zeros(1, np.int64)]
    start = 0
    for part in parts:
        offsets.append(part.offsets[1:] + start)
        start += len(part.ids)
    return Encodings(
        np.concatenate([part.ids for part in parts]),
        np.concatenate(offsets),
        np.concatenate([part.dropped for part in parts]),
    )
