"""The threads that take batches from the backlog, have the device compute them, and answer the requests in them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import FletcherError, ProviderError

from ..observe.metrics import Metrics
from .backend import Backend
from .backlog import Backlog
from .failover import Device
from .request import Piece, Request
from .watchdog import Watchdog

__all__ = ["BatchWorkers"]

logger = logging.getLogger("fletcher.serve.engine.engine")


class BatchWorkers:
    """As many threads as the encoder computes batches at once.

    Attributes:
        encoder: what computes.
        metrics: what they count in.
        device: what runs the batches, with a breaker and a spare.
        failures: batches that failed so far.
        stuck: batches that the device does not answer.
        stuck_seconds: after so long a batch counts as stuck.
    """

    def __init__(
        self, encoder: Backend, backlog: Backlog, device: Device, metrics: Metrics, stuck_seconds: float
    ) -> None:
        """
        Args:
            backlog: where batches come from.
            encoder, device, metrics, stuck_seconds: see above.
        """
        self.encoder = encoder
        self.metrics = metrics
        self.device = device
        self.failures = 0
        self.stuck_seconds = stuck_seconds
        self._backlog = backlog
        self._watchdog = Watchdog(stuck_seconds, self._lost)
        self._threads: list[threading.Thread] = []
        for _ in range(encoder.workers):
            self.begin()

    @property
    def stuck(self) -> int:
        """Batches that are stuck now."""
        return self._watchdog.stuck

    def stop(self, *, drained: bool) -> None:
        """Ends the threads, once the backlog is closed.

        Args:
            drained: whether everything was answered: only then are they waited for, and the spare device closed.
        """
        self._watchdog.stop()
        if drained:
            for thread in self._threads:
                if not self._watchdog.is_lost(thread):
                    thread.join()
        self.device.close_spare(idle=drained)

    def begin(self) -> None:
        """Begins one more worker."""
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
        self.failures += 1
        self.begin()
        for piece in pieces:
            self.fail(
                piece.request, ProviderError(f"the device did not answer a batch within {self._watchdog.limit:g} s")
            )

    def _compute(self, pieces: Sequence[Piece]) -> None:
        """Runs one batch and answers the requests that it completes."""
        batch = pieces[0].encodings if len(pieces) == 1 else _join(pieces)
        started = time.perf_counter()
        try:
            by_token = pieces[0].request.task.by_token
            values = self.device.run(batch, pieces[0].request.task.output)
            finite = self.device.check(values, batch.num_tokens if by_token else len(batch))
        except Exception as error:
            # Whatever it is, it must fail its own request only, and never the thread that serves all the others.
            self.failures += 1
            self._trace(pieces, batch, started, time.perf_counter(), type(error).__name__)
            if len(pieces) > 1:
                for piece in pieces:
                    self._compute([piece])
                return
            if not isinstance(error, FletcherError):
                logger.exception("a batch of %d tokens failed", batch.num_tokens)
            self.fail(pieces[0].request, error)
            return
        computed = time.perf_counter()
        self.failures += finite is not None
        self._count_batch(batch, pieces, started, computed - started)
        self._trace(pieces, batch, started, computed)
        self.metrics.vectors.inc(len(batch))
        start = 0
        for piece in pieces:
            end = start + (piece.encodings.num_tokens if by_token else len(piece.encodings))
            if finite is not None and not finite[start:end].all():
                self.fail(piece.request, ProviderError("the session gave NaN or infinity, which is no vector"))
            elif piece.rows is None:
                self.answer(piece.request, values[start:end])
            elif (whole := piece.request.fill(piece.rows, values[start:end])) is not None:
                self.answer(piece.request, whole)
            start = end

    def _trace(
        self, pieces: Sequence[Piece], batch: Encodings, started: float, computed: float, error: str | None = None
    ) -> None:
        """Tells the traces of a batch's requests, if there are any."""
        traces = [trace for piece in pieces if (trace := piece.request.terms.trace) is not None]
        if not traces:
            return
        for piece in pieces:
            request = piece.request
            if (trace := request.terms.trace) is not None and request.queued is not None:
                trace.stage("queue", request.queued, started)
                request.queued = None
        attributes: dict[str, str | int] = {
            "fletcher.tokens": batch.num_tokens,
            "fletcher.texts": len(batch),
            "fletcher.provider": self.encoder.provider,
            "fletcher.variant": self.encoder.variant.name,
        }
        traces[0].batch(traces, started, computed, attributes, error=error)

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
            request = piece.request
            if piece.first:
                metrics.queued.observe(started - request.admitted)
            if (stages := request.terms.stages) is not None:
                stages.compute += seconds
                if piece.first and request.queued is not None:
                    stages.wait += started - request.queued

    def answer(self, request: Request, values: NDArray[np.float32]) -> None:
        """Answers a request with what the model made of its rows, unless somebody has."""
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
            ended = time.perf_counter()
            self.metrics.output.observe(ended - started)
            if (trace := request.terms.trace) is not None:
                trace.stage("output", started, ended)
            left = request.resolve(lambda future: future.set_result(answer))
        if left:
            self.metrics.cancelled.inc(left)
        self._backlog.settle(request)

    def fail(self, request: Request, error: BaseException) -> None:
        """Answers a request with an error, unless somebody has."""
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
