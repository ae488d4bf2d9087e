"""`EngineLink`: a front's connection to the engine process. It sends the rows of requests and receives their values.

Requests that come in one turn of the event loop are sent together: one message for all requests of a model with the same
terms. No request waits for others. Waiting up to 1 ms for more requests while some were under way was tried on a GPU host, on
this side and in the engine process: it changed neither requests per second nor latency by more than the noise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.artifact.outputs import ValueRows
from fletcher.runtime.errors import FailingError, FletcherError, OverloadedError, ServiceError
from fletcher.runtime.tasks.task import Task

from ...engine.terms import Terms
from .errors import error_of
from .frames import FrameProtocol
from .wire import (
    Cancel,
    Catalog,
    CatalogTaken,
    Failure,
    Frame,
    Message,
    Page,
    PageRequest,
    Rows,
    Values,
    encode,
    rows_frame,
    values_of,
)

if TYPE_CHECKING:
    from ...observe.requests import RecordDraft

__all__ = ["EngineLink", "RowsOf", "Waiting"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Bounds of a message of several requests: about a batch of a small model. One larger request is one message.
GATHER_TOKENS: Final = 8192
GATHER_REQUESTS: Final = 256

#: Seconds between two attempts to connect.
RETRY_SECONDS: Final = 0.05

#: Values of a message, in elements, up to which the event loop's thread makes the answers of them.
INLINE_VALUES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Common properties of the rows of one message: a version's labels, a graph's output, and terms."""

    model: str
    version: str
    digest: str
    output: str | None
    value_rows: ValueRows | None
    has_types: bool
    terms: Terms


@dataclass(slots=True)
class Waiting:
    """A request whose rows go to the engine.

    Attributes:
        kind: what its message may share with others.
        task: its rows, and the function that makes its answer.
        future: its answer.
        draft: record that receives its stages, or None.
    """

    kind: RowsOf
    task: Task
    future: Future[Any]
    draft: RecordDraft | None

    def settle(self, values: NDArray[np.float32]) -> None:
        """Answer with values of its rows."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            answer = self.task.finish(values)
        except Exception as error:  # noqa: BLE001 (the caller gets it: it must not end the thread that serves all others)
            self.future.set_exception(error)
        else:
            self.future.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Answer with an error."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(slots=True)
class _Sent:
    """Message that waits for its answer: its requests, and the number of those that were not cancelled."""

    requests: Sequence[Waiting]
    left: int


class EngineLink:
    """The connection. `post` may be called from any thread; everything else runs on the loop's thread."""

    def __init__(
        self,
        path: str,
        *,
        on_catalog: Callable[[Catalog], None],
        page: Callable[[], bytes],
        finish: Callable[[Callable[[], None]], object],
    ) -> None:
        """Prepare the connection.

        Args:
            path: the engine's Unix socket.
            on_catalog: receives each catalog on the loop's thread; `take_catalog` acknowledges it.
            page: returns the front's metrics in Prometheus' text format.
            finish: runs a function on another thread; used for large answers.
        """
        self._path = path
        self._on_catalog = on_catalog
        self._page = page
        self._finish = finish
        self._loop: asyncio.AbstractEventLoop
        self._thread = 0
        self._protocol: FrameProtocol | None = None
        self._outbox: deque[Waiting] = deque()
        self._woken = False
        self._sent: dict[int, _Sent] = {}
        self._number = 0
        self._flushing = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect, now and whenever the connection ends, until `close`. Call it on the loop's thread."""
        self._loop, self._thread = loop, threading.get_ident()
        self._task = loop.create_task(self._connect())

    def close(self) -> None:
        """End the connection for good; requests under way fail."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        if self._protocol is not None and self._protocol.transport is not None:
            self._protocol.transport.abort()

    async def _connect(self) -> None:
        while not self._closed and self._protocol is None:
            try:
                _, protocol = await self._loop.create_unix_connection(
                    lambda: FrameProtocol(self._on_frame, self._on_end), self._path
                )
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._protocol = protocol

    # Requests ----------------------------------------------------------------------------------------------------------

    def check(self, terms: Terms) -> None:
        """Reject a request that cannot be sent now. A part of a stream is sent in any case: a stream has few at a time.

        Args:
            terms: terms of the request.

        Raises:
            FailingError: the engine process is not there; it is started again.
            OverloadedError: the engine process does not read what was sent to it.
        """
        protocol = self._protocol
        if protocol is None:
            raise _engine_is_gone()
        if (
            protocol.congested and not terms.stream
        ):  # a front itself always reads, so that the two cannot wait for each other
            raise OverloadedError("the server is overloaded: its engine process is behind. Retry after 1 s", 1.0)

    def post(self, request: Waiting) -> None:
        """Send the rows of a request, perhaps together with those of others."""
        self._outbox.append(request)
        if threading.get_ident() == self._thread:
            self._schedule()
        elif not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = False  # first, so that a request that comes meanwhile wakes the loop again
        self._schedule()

    def _schedule(self) -> None:
        """Send at the end of this turn of the loop."""
        if not self._flushing and self._outbox:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send every request that waits."""
        self._flushing = False
        groups: dict[RowsOf, list[Waiting]] = {}
        while self._outbox:
            request = self._outbox.popleft()
            if request.future.cancelled():
                request.future.set_running_or_notify_cancel()
            elif request.kind.terms.deadline is None and not request.kind.terms.stream:
                groups.setdefault(request.kind, []).append(request)
            else:  # a deadline or a part of a stream is one request's
                self._send([request])
        for requests in groups.values():
            part: list[Waiting] = []
            tokens = 0
            for request in requests:
                count = request.task.encodings.num_tokens
                if part and (tokens + count > GATHER_TOKENS or len(part) == GATHER_REQUESTS):
                    self._send(part)
                    part, tokens = [], 0
                part.append(request)
                tokens += count
            self._send(part)

    def _send(self, requests: Sequence[Waiting]) -> None:
        """Send one message."""
        if self._protocol is None:
            self._fail(requests, _engine_is_gone())
            return
        self._number += 1
        number, kind = self._number, requests[0].kind
        encodings = (
            requests[0].task.encodings
            if len(requests) == 1
            else Encodings.concatenate([request.task.encodings for request in requests])
        )
        terms = kind.terms
        message = Rows(
            id=number,
            model=kind.model,
            version=kind.version,
            digest=kind.digest,
            output=kind.output,
            value_rows=kind.value_rows,
            rows=len(encodings),
            tokens=encodings.num_tokens,
            has_types=kind.has_types,
            requests=len(requests),
            priority=terms.priority,
            client=terms.client,
            salt=terms.salt,
            seconds=None if terms.deadline is None else max(terms.deadline - time.monotonic(), 0.0),
            stream=terms.stream,
            part=terms.part,
        )
        self._sent[number] = _Sent(requests, len(requests))
        self._protocol.write([rows_frame(message, encodings)])
        for request in requests:
            request.future.add_done_callback(lambda future: self._left(number, future))

    def _left(self, number: int, future: Future[Any]) -> None:
        """Tell the engine when every caller of a message has left."""
        if future.cancelled():
            self._loop.call_soon_threadsafe(self._cancel, number)

    def _cancel(self, number: int) -> None:
        sent = self._sent.get(number)
        if sent is None:
            return
        sent.left -= 1
        if not sent.left:
            del self._sent[number]  # the engine does not answer it
            self._write(encode(Cancel(number)))

    # Answers -----------------------------------------------------------------------------------------------------------

    def _on_frame(self, message: Message, payload: memoryview) -> None:
        if isinstance(message, Values):
            self._answer(message, payload)
        elif isinstance(message, Failure):
            sent = self._sent.pop(message.id, None)
            if sent is not None:
                self._refuse(sent.requests, error_of(message))
        elif isinstance(message, Catalog):
            self._on_catalog(message)
        elif isinstance(message, PageRequest):
            self._write(encode(Page(message.id), [self._page()]))

    def _answer(self, message: Values, payload: memoryview) -> None:
        # Before the message is removed: if this raises, the end of the connection fails all listed messages.
        values = values_of(message, payload)
        sent = self._sent.pop(message.id, None)
        if sent is None:
            return
        for request in sent.requests:
            if request.draft is not None:
                request.draft.stages.wait += message.wait
                request.draft.stages.compute += message.compute
        if values.size > INLINE_VALUES:
            self._finish(lambda: _settle(sent.requests, values))
        else:
            _settle(sent.requests, values)

    def _refuse(self, requests: Sequence[Waiting], error: FletcherError) -> None:
        """Fail requests. If the engine failed on a message of several, each is sent alone, so that one cannot fail others."""
        if len(requests) > 1 and not isinstance(error, ServiceError):
            for request in requests:
                self._send([request])
            return
        self._fail(requests, error)

    def _fail(self, requests: Sequence[Waiting], error: FletcherError) -> None:
        for request in requests:
            request.fail(error)

    def _on_end(self) -> None:
        """Fail what is under way, and connect again."""
        self._protocol = None
        lost, self._sent = self._sent, {}
        for sent in lost.values():
            self._fail(sent.requests, _engine_is_gone())
        if not self._closed:
            logger.warning("the engine process is gone", extra={"fields": {"open_messages": len(lost)}})
            self._task = self._loop.create_task(self._connect())

    def take_catalog(self, number: int) -> None:
        """Acknowledge a catalog. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._write, encode(CatalogTaken(number)))

    def _write(self, frame: Frame) -> None:
        if self._protocol is not None:
            self._protocol.write([frame])


def _settle(requests: Sequence[Waiting], values: NDArray[np.float32]) -> None:
    """Give every request the values of its own rows."""
    start = 0
    for request in requests:
        task = request.task
        end = start + (len(task.encodings) if task.rows is None else task.rows.count(task.encodings))
        request.settle(values[start:end])
        start = end


def _engine_is_gone() -> FailingError:
    return FailingError("the engine process of this server has ended; it is started again: retry", 1.0)
