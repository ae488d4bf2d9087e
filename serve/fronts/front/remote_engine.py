"""`RemoteEngine`: a version's engine as a front sees it: it tokenizes here, and the engine process computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import numpy as np

from fletcher.runtime.errors import DeadlineError, InputError, OverloadedError, StoppingError
from fletcher.runtime.inputs import TokenIds

from ...engine.admission import price_of
from ...engine.backend import Backend
from ...engine.embed_request import PLAIN, EmbedRequest
from ...engine.engine import INLINE_CHARACTERS, INLINE_IDS, MAX_QUEUE_TOKENS, check_tokens
from ...engine.rows_request import RowsRequest
from ...observe.metrics import Metrics
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
        tokenizers: Executor,
        metrics: Metrics,
        *,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_request_tokens: int | None = None,
    ) -> None:
        """Begin to take requests.

        Args:
            backend: tokenizer and description of the version.
            link: connection to the engine process.
            tokenizers: threads that tokenize long requests.
            metrics: receives the counts.
            max_queue_tokens: largest number of tokens, by estimate, of long requests that wait for a thread; above it
                requests are rejected. A larger request is taken if no other waits.
            max_request_tokens: largest number of tokens of one request that the model computes; None means without limit.
        """
        self.backend: Backend = backend
        self.metrics = metrics
        self.stopping = False
        self._entry = backend.entry
        self._link = link
        self._tokenizers = tokenizers
        self._max_queue_tokens = max_queue_tokens
        self._max_request_tokens = max_request_tokens
        self._open = 0
        self._queued_tokens = 0
        self._changed = threading.Condition()
        for name, (text, value) in backend.metrics().counters.items():
            metrics.counted(f"fletcher_{name}", text, value)
        metrics.gauge("fletcher_front_requests", "Open requests in front processes", lambda: self._open)

    @property
    def open_requests(self) -> int:
        """Return the number of requests that are not yet answered."""
        return self._open

    def bound_memory(self, size: int) -> None:
        """Do nothing: the engine process bounds the memory of open requests."""

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
        deadline = request.terms.deadline
        if deadline is not None and deadline <= time.monotonic():
            raise DeadlineError("the request's deadline had passed when it came")
        long = price.characters > INLINE_CHARACTERS or price.ids > INLINE_IDS
        try:
            self._link.check()
            self._take(price.tokens if long else 0)
        except OverloadedError:
            self.metrics.refused("overloaded")
            raise
        future: Future[Any] = Future()
        future.add_done_callback(self._close)
        if long:
            self._tokenizers.submit(self._prepare_on_thread, request, future, draft, price.tokens)
            return future
        try:
            self._prepare(request, future, draft)
        except BaseException:
            future.cancel()
            future.set_running_or_notify_cancel()
            raise
        return future

    def _take(self, queued_tokens: int) -> None:
        """Count a request, and the tokens that wait for a thread.

        Raises:
            OverloadedError: too many wait.
            StoppingError: the front is stopping.
        """
        with self._changed:
            if self.stopping:
                raise StoppingError("the server is stopping: send the request to another one, or again later")
            waiting, most = self._queued_tokens, self._max_queue_tokens
            if waiting and queued_tokens and waiting + queued_tokens > most:
                raise OverloadedError(
                    f"the server is overloaded: about {waiting} tokens wait for the tokenizer, of {most}. Retry after 1 s",
                    1.0,
                )
            self._queued_tokens += queued_tokens
            self._open += 1

    def _prepare_on_thread(
        self, request: EmbedRequest, future: Future[Any], draft: RecordDraft | None, queued_tokens: int
    ) -> None:
        with self._changed:
            self._queued_tokens -= queued_tokens
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
        if self._max_request_tokens is not None or task.by_token:
            check_tokens(self._max_request_tokens, encodings.num_tokens, by_token=task.by_token)
        spec = self._entry.spec
        kind = RowsOf(
            model=spec.name,
            version=spec.version,
            digest=self._entry.info.digest,
            output=task.output,
            by_token=task.by_token,
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
