"""`BatchWorkers`: threads that take batches from the backlog, compute them, and answer the requests in them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import FletcherError, NotFiniteError, ProviderError

from ..observe.metrics import Metrics
from .admission import Admission
from .backlog import Backlog
from .failover import Failover
from .open_request import OpenRequest, Piece
from .watchdog import Watchdog

__all__ = ["BatchWorkers"]

logger = logging.getLogger("fletcher.serve.engine.engine")

#: Seconds in which the workers of an engine that has answered everything must end.
ENDING_SECONDS: Final = 0.25


class BatchWorkers:
    """Worker threads of an engine, one for each batch that the backend computes at once.

    Attributes:
        failures: number of batches that failed so far.
        stuck_seconds: seconds after which a batch counts as stuck.
    """

    def __init__(
        self, admission: Admission, backlog: Backlog, failover: Failover, metrics: Metrics, stuck_seconds: float
    ) -> None:
        """Start the threads.

        Args:
            admission: settles the requests.
            backlog: forms the batches.
            failover: runs the batches.
            metrics: receives the counts of batches.
            stuck_seconds: seconds after which a batch counts as stuck.
        """
        self.failures = 0
        self.stuck_seconds = stuck_seconds
        self._admission = admission
        self._backlog = backlog
        self._failover = failover
        self._metrics = metrics
        self._info = failover.backend.info
        self._watchdog = Watchdog(stuck_seconds, self._lose)
        self._threads: list[threading.Thread] = []
        for _ in range(self._info.workers):
            self._begin()

    @property
    def stuck(self) -> int:
        """Return the number of batches that are stuck now."""
        return self._watchdog.stuck

    def stop(self, *, drained: bool) -> bool:
        """End the threads, and drop the spare backend. Call it after the backlog was closed.

        Args:
            drained: True if every request was answered. Only then the threads are waited for: all but those whose batch is
                stuck, or belongs to requests that failed in another batch, end at once.

        Returns:
            True if all threads have ended.
        """
        self._watchdog.stop()
        until = time.monotonic() + ENDING_SECONDS
        for thread in self._threads if drained else ():
            if not self._watchdog.is_lost(thread):
                thread.join(max(until - time.monotonic(), 0.0))
        ended = not any(thread.is_alive() for thread in self._threads)
        self._failover.close_spare(idle=ended)
        return ended

    def _begin(self) -> None:
        """Start one more worker."""
        thread = threading.Thread(target=self._work, name=f"fletcher-worker-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        """Compute batches until the backlog is closed."""
        budget = self._info.token_budget
        while (pieces := self._backlog.take(budget)) is not None:
            with self._watchdog.watch(pieces) as watched:
                self._compute(pieces)
            if self._info.small_tokens:
                self._backlog.end(pieces)
            if watched.lost:  # another worker has replaced this one
                return

    def _lose(self, pieces: Sequence[Piece]) -> None:
        """Fail the requests of a stuck batch, and start a worker that replaces the one that waits for it."""
        logger.error("the device does not answer", extra={"fields": {"seconds": self._watchdog.limit}})
        self._count_failure()
        self._begin()
        error = ProviderError(f"the device did not answer a batch within {self._watchdog.limit:g} s")
        for piece in pieces:
            self._admission.settle(piece.request, error=error)

    def _compute(self, pieces: Sequence[Piece]) -> None:
        """Compute one batch, and answer the requests that it completes."""
        batch = pieces[0].encodings if len(pieces) == 1 else _join(pieces)
        task = pieces[0].request.task
        started = time.perf_counter()
        try:
            values = self._failover.run(batch, task.output, len(batch) if task.rows is None else task.rows.count(batch))
        except Exception as error:
            # An error, for example NaN in one row, must fail only the request that causes it, and never the worker.
            self._count_failure()
            self._trace(pieces, batch, started, time.perf_counter(), type(error).__name__)
            if len(pieces) > 1:
                self._compute_apart(pieces, error)
                return
            if not isinstance(error, FletcherError):
                logger.exception("a batch of %d tokens failed", batch.num_tokens)
            self._admission.settle(pieces[0].request, error=error)
            return
        self._count(batch, pieces, started, time.perf_counter())
        start = 0
        for piece in pieces:
            request = piece.request
            end = start + (len(piece.encodings) if task.rows is None else task.rows.count(piece.encodings))
            if piece.rows is None:
                self.answer(request, values[start:end])
            elif (all_values := request.fill(piece.rows, values[start:end])) is not None:
                self.answer(request, all_values)
            start = end

    def _compute_apart(self, pieces: Sequence[Piece], error: Exception) -> None:
        """Compute the requests of a failed batch again, so that the one that causes the failure fails alone.

        If the error names the rows that cause it, the other requests are computed together, in one batch more. Otherwise each
        request is computed alone. A request that is cancelled or too late meanwhile is not computed.
        """
        groups = [[piece] for piece in pieces]
        if isinstance(error, NotFiniteError):
            ends = np.cumsum([len(piece.encodings) for piece in pieces])
            suspects = set(np.searchsorted(ends, error.rows, side="right").tolist())
            sound = [piece for number, piece in enumerate(pieces) if number not in suspects]
            groups = [sound, *(groups[number] for number in sorted(suspects))]
        for group in groups:
            now = time.monotonic()
            wanted = []
            for piece in group:
                if (reason := piece.request.reason_to_drop(now)) is not None:
                    self._admission.settle(piece.request, error=reason)
                elif not piece.request.settled:
                    wanted.append(piece)
            if wanted:
                self._compute(wanted)

    def _count_failure(self) -> None:
        """Count a failed batch. Several workers may fail at the same time."""
        with self._admission.lock:
            self.failures += 1

    def _count(self, batch: Encodings, pieces: Sequence[Piece], started: float, computed: float) -> None:
        """Count a computed batch, and report it to the traces of its requests."""
        metrics, tokens, texts, seconds = self._metrics, batch.num_tokens, len(batch), computed - started
        if tokens * 2 >= self._info.token_budget:
            with self._admission.lock:
                self._admission.rate.count_batch(tokens, seconds)
        metrics.batch_seconds.observe(seconds)
        metrics.batch_tokens.observe(tokens)
        metrics.batch_texts.observe(texts)
        metrics.batch_budget.inc(self._info.token_budget)
        metrics.tokens.inc(tokens)
        metrics.dropped.inc(int(batch.dropped.sum()))
        metrics.padding.inc(texts * int(batch.lengths.max()) - tokens)
        metrics.vectors.inc(texts)
        traced = False
        for piece in pieces:
            request = piece.request
            if piece.first:
                metrics.queued.observe(started - request.admitted)
            if (draft := request.draft) is not None:
                traced = traced or draft.trace is not None
                with request.lock:  # other pieces of the request may be in other workers' batches
                    draft.stages.compute += seconds
                if piece.first and request.queued is not None:
                    draft.stages.wait += started - request.queued
        if traced:
            self._trace(pieces, batch, started, computed)

    def _trace(
        self, pieces: Sequence[Piece], batch: Encodings, started: float, computed: float, error: str | None = None
    ) -> None:
        """Report a batch to the traces of its requests, if there are any."""
        traces = []
        for piece in pieces:
            request = piece.request
            if request.draft is None or (trace := request.draft.trace) is None:
                continue
            traces.append(trace)
            if request.queued is not None:
                trace.stage("queue", request.queued, started)
                request.queued = None
        if not traces:
            return
        attributes: dict[str, str | int] = {
            "fletcher.model": self._info.card.name,
            "fletcher.tokens": batch.num_tokens,
            "fletcher.texts": len(batch),
            "fletcher.provider": self._info.provider,
            "fletcher.variant": self._info.variant,
        }
        traces[0].batch(traces, started, computed, attributes, error=error)

    def answer(self, request: OpenRequest, values: NDArray[np.float32]) -> None:
        """Make the answer of a request from the values of all its rows, and settle it.

        Args:
            request: the request.
            values: float32, (rows, dimension) or (tokens, dimension).
        """
        if request.settled:
            return
        started = time.perf_counter()
        try:
            answer = request.task.finish(values)
        except Exception as error:  # an error must fail only this request, as in `_compute`
            logger.exception("a request of %d rows could not be finished", len(request.task.encodings))
            self._admission.settle(
                request,
                error=ProviderError(f"the answer could not be made from the model's output: {type(error).__name__}"),
            )
            return
        ended = time.perf_counter()
        self._metrics.output.observe(ended - started)
        if (draft := request.draft) is not None and draft.trace is not None:
            draft.trace.stage("output", started, ended)
        self._admission.settle(request, answer)


def _join(pieces: Sequence[Piece]) -> Encodings:
    """Return the token ids of the pieces as one batch. A batch can have dozens of pieces, so it makes few numpy calls."""
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
