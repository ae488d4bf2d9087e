"""`Requests`: the one wrapper around every request of HTTP and Flight. It makes the request's record for the consumers."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from .logs import log_request
from .metrics import Metrics
from .record import Consumer, Door, RequestRecord, Stages

if TYPE_CHECKING:
    from .trace import Trace
    from .tracing import Tracing

__all__ = ["RecordDraft", "Requests"]

logger = logging.getLogger("fletcher.serve.observe")


class RecordDraft(msgspec.Struct, kw_only=True):
    """A request's record while the request is under way. The door, the handler and the engine fill it in.

    Attributes:
        started: `time.perf_counter()` of the request's arrival.
        answered: `time.perf_counter()` when the engine's latest answer arrived, or None.

    The other attributes are those of `RequestRecord`.
    """

    door: Door
    id: str
    client: str = ""
    route: str = "unknown"
    model: str = ""
    version: str = ""
    texts: int = 0
    tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status: int | str = "left"
    error: str | None = None
    stages: Stages = msgspec.field(default_factory=Stages)
    trace: Trace | None = None
    started: float = msgspec.field(default_factory=time.perf_counter)
    answered: float | None = None

    def count(self, model: str, version: str, answer: Any) -> None:
        """Add an engine's answer.

        Args:
            model, version: what answered.
            answer: `Embeddings` or another answer with `tokens`, int64, (n,).
        """
        self.model = model
        self.version = version
        self.texts += len(answer.tokens)
        self.tokens += sum(answer.tokens.tolist())  # a few numbers: a sum in numpy costs ten times as much
        self.answered = time.perf_counter()


class Requests:
    """Wraps every request of a door: `wrap` is the place for whatever is to happen around each request.

    Safe to use from any thread.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None, consumers: Sequence[Consumer] = ()) -> None:
        """Report requests to consumers.

        Args:
            metrics: counts every request.
            tracing: ends the span of every request that has one; None if nothing is traced.
            consumers: receive every record after metrics, log and traces.
        """
        spans = () if tracing is None else (tracing.end,)
        self._consumers: tuple[Consumer, ...] = (metrics.count_request, log_request, *spans, *consumers)

    @contextmanager
    def wrap(self, draft: RecordDraft) -> Iterator[None]:
        """Make the request's record when the block ends, however it ends, and hand it to every consumer.

        A consumer that fails is logged; it changes neither the answer nor what other consumers receive.
        """
        try:
            yield
        finally:
            # The engine may still add to the draft's stages afterwards, but not to the record's.
            stages = copy.copy(draft.stages)
            stages.total = time.perf_counter() - draft.started
            record = RequestRecord(
                door=draft.door,
                id=draft.id,
                client=draft.client,
                route=draft.route,
                model=draft.model,
                version=draft.version,
                texts=draft.texts,
                tokens=draft.tokens,
                bytes_in=draft.bytes_in,
                bytes_out=draft.bytes_out,
                status=draft.status,
                error=draft.error,
                stages=stages,
                trace=draft.trace,
            )
            for consume in self._consumers:
                try:
                    consume(record)
                except Exception:  # a defect of the consumer's, after the request was answered
                    logger.exception("a record was not consumed", extra={"fields": {"request_id": record.id}})
