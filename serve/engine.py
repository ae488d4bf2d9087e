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
from fletcher.runtime.errors import FletcherError, InputError, OverloadedError, ProviderError, StoppingError
from fletcher.runtime.tasks import Task

from .backend import Backend
from .backlog import Backlog, Piece, Request
from .errors import TooLargeError
from .metrics import Metrics

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

PLAIN = EmbedOptions()


class Engine:
    """Texts or token ids in, futures of `Embeddings` out. Safe to use from any thread; a context manager that stops itself.

    Attributes:
        encoder: what computes.
        metrics: what it counts in.
    """

    def __init__(
        self,
        encoder: Backend,
        *,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        max_request_tokens: int | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """
        Args:
            encoder: the model; it stays the caller's to close, after the engine has stopped.
            max_queue_tokens: tokens that may wait; above it requests are refused.
            max_wait_seconds: seconds that a request may be expected to wait before it is computed.
            max_request_tokens: tokens that one request may have the model compute; None is no bound.
            metrics: where to count; None counts for nobody.
        """
        self.encoder = encoder
        self.metrics = Metrics() if metrics is None else metrics
        self._backlog = Backlog(max_tokens=max_queue_tokens, max_wait=max_wait_seconds, workers=encoder.workers)
        self._max_request_tokens = max_request_tokens
        self._failures = 0
        self.metrics.gauge("fletcher_queue_tokens", "Tokens that wait for a batch", lambda: self._backlog.tokens)
        self.metrics.gauge(
            "fletcher_open_requests", "Requests admitted and not yet answered", lambda: self._backlog.open_requests
        )
        for name, (text, value) in encoder.counters().items():
            self.metrics.counted(f"fletcher_{name}", text, value)
        self.metrics.gauge(
            "fletcher_provider_fallback",
            "1 where another provider runs than the one that was wanted",
            lambda: float(encoder.fallback is not None),
        )
        self._tokenizers = ThreadPoolExecutor(encoder.workers, thread_name_prefix="fletcher-tokenize")
        self._threads = [
            threading.Thread(target=self._work, name=f"fletcher-worker-{number}", daemon=True)
            for number in range(encoder.workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def stopping(self) -> bool:
        """Whether it admits nothing more."""
        return self._backlog.stopping

    @property
    def failures(self) -> int:
        """Batches that the session failed so far: whoever tells others that the model is well asks it again after one."""
        return self._failures

    @property
    def open_requests(self) -> int:
        """Requests admitted and not yet answered."""
        return self._backlog.open_requests

    def submit(self, inputs: Sequence[str] | Encodings, options: EmbedOptions = PLAIN) -> Future[Embeddings]:
        """Admits a request of any size. Its vectors are those that it would get alone.

        Cancelling the future drops what of it has not been computed.

        Args:
            inputs: texts, or token ids that are ready.
            options: how they become vectors. Token ids get no prompt.

        Returns:
            The embeddings, in the order of the inputs. Texts that turn out to be unusable fail here or in the future.

        Raises:
            InputError: the inputs or the options cannot be used.
            OverloadedError: too much waits already.
            StoppingError: the server is stopping.
        """
        if options != PLAIN:
            self.encoder.check(options)
        if isinstance(inputs, Encodings):
            self._check_tokens(inputs.num_tokens)
            request = self._admit(inputs.num_tokens)
            self._enqueue(request, self.encoder.prepare_ids(inputs, options))
            return request.future
        characters = sum(map(len, inputs))
        limit = None if options.splits else len(inputs) * self.encoder.max_tokens
        return self._submit(partial(self.encoder.prepare, inputs, options), characters, len(inputs), limit)

    def submit_task(self, prepare: Callable[[], Task], *, characters: int, rows: int) -> Future[Any]:
        """Admits what a model gives besides vectors of texts: scores, sparse vectors, token vectors.

        Args:
            prepare: tokenises; called on this thread or on another one.
            characters: of all its texts.
            rows: that it makes.

        Returns:
            What the task's `finish` gives.

        Raises:
            As `submit`.
        """
        return self._submit(prepare, characters, rows, rows * self.encoder.max_tokens)

    def _submit(self, prepare: Callable[[], Task], characters: int, rows: int, limit: int | None) -> Future[Any]:
        # English has about four characters a token; two keep the estimate on the safe side until the real count is known.
        cost = characters // 2 + 4 * rows
        request = self._admit(cost if limit is None else min(cost, limit))
        if characters > INLINE_CHARACTERS:
            job = self._tokenizers.submit(self._tokenize, request, prepare)
            job.add_done_callback(partial(self._tokenized, request))
            return request.future
        try:
            task = self._tokenize(request, prepare)
        except BaseException:
            self._abandon(request)
            raise
        self._enqueue(request, task)
        return request.future

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
        if drained:
            for thread in self._threads:
                thread.join()
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

    def _admit(self, cost: int) -> Request:
        try:
            request = self._backlog.admit(cost)
        except (OverloadedError, StoppingError) as error:
            self.metrics.refused("overloaded" if isinstance(error, OverloadedError) else "stopping")
            raise
        self.metrics.admitted.inc()
        return request

    def _tokenize(self, request: Request, prepare: Callable[[], Task]) -> Task | None:
        if request.future.cancelled():
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

    def _work(self) -> None:
        """A worker's life."""
        budget = self.encoder.token_budget
        while (pieces := self._backlog.take(budget)) is not None:
            self._compute(pieces)

    def _compute(self, pieces: Sequence[Piece]) -> None:
        """Runs one batch and answers the requests that it completes."""
        batch = pieces[0].encodings if len(pieces) == 1 else _join(pieces)
        started = time.perf_counter()
        try:
            by_token = pieces[0].request.task.by_token
            values = self.encoder.run(batch, pieces[0].request.task.output)
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
        for piece in pieces:
            metrics.queued.observe(started - piece.request.admitted)

    def _answer(self, request: Request, values: NDArray[np.float32]) -> None:
        if not request.close():
            return
        if request.future.set_running_or_notify_cancel():
            try:
                request.future.set_result(request.task.finish(values))
            except Exception as error:  # it must fail this request only, as in `_compute`
                logger.exception("a request of %d rows could not be finished", len(request.encodings))
                request.future.set_exception(ProviderError(f"the vectors could not be made: {type(error).__name__}"))
        else:
            self.metrics.cancelled.inc()
        self._backlog.settle(request)

    def _fail(self, request: Request, error: BaseException) -> None:
        if not request.close():
            return
        if not isinstance(error, FletcherError):
            failure = ProviderError(f"the session failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
            error = failure
        if request.future.set_running_or_notify_cancel():
            request.future.set_exception(error)
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
