"""`Requests`: wrapper around every request of HTTP and Flight. It makes the record of a request for the consumers."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from fletcher.runtime.inputs import Inputs, Texts, TokenIds

from .logs import log_request
from .metrics import Metrics
from .record import MOST_CHARACTERS, Consumer, Door, RequestRecord, Stages

if TYPE_CHECKING:
    from .trace import Trace
    from .tracing import Tracing

__all__ = ["RecordDraft", "Requests"]

logger = logging.getLogger("fletcher.serve.observe")


class RecordDraft(msgspec.Struct, kw_only=True):
    """Record of an open request. HTTP or Flight, the handler and the engine fill it in.

    Attributes:
        started: `time.perf_counter()` of the request's arrival.
        answered: `time.perf_counter()` when the engine's latest answer arrived, or None.
        truncated: number of texts that truncation has cut.
        chosen: priority class that the server chose because of the request's size; empty if it chose none.
        space: identifier of the space of the answer's vectors; empty if it has none.
        inputs: texts for the audit log; it stays empty if the log shall not have them.
        held: bytes that the body and the answer hold of the server's budget, until the request ends.

    The other attributes are those of `RequestRecord`.
    """

    door: Door
    id: str
    client: str = ""
    peer: str = ""
    route: str = "unknown"
    model: str = ""
    version: str = ""
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status: int | str = "left"
    error: str | None = None
    stages: Stages = msgspec.field(default_factory=Stages)
    trace: Trace | None = None
    started: float = msgspec.field(default_factory=time.perf_counter)
    answered: float | None = None
    chosen: str = ""
    space: str = ""
    held: int = 0
    inputs: list[str] = msgspec.field(default_factory=list)
    inputs_cut: int = 0
    inputs_size: int = 0

    def keep(self, inputs: Inputs) -> None:
        """Keep the texts of a request, or of a part of a stream, for the audit log: the first `MOST_CHARACTERS` of them."""
        if isinstance(inputs, TokenIds):
            return
        texts = inputs.texts if isinstance(inputs, Texts) else (*dict.fromkeys(inputs.queries), *inputs.documents)
        for text in texts:
            if room := MOST_CHARACTERS - self.inputs_size:
                self.inputs.append(text[:room])
            self.inputs_size += min(len(text), room)
            self.inputs_cut += max(len(text) - room, 0)

    def count(self, model: str, version: str, answer: Any) -> None:
        """Count the texts and tokens of an answer from the engine.

        Args:
            model, version: name of the model and label of the version that answered.
            answer: `Embeddings` or another answer with `tokens`, int64, (n,), and `dropped`, int32, (n,).
        """
        self.model = model
        self.version = version
        self.texts += len(answer.tokens)
        self.tokens += sum(answer.tokens.tolist())  # for a few numbers, a sum in numpy takes ten times as long
        dropped = answer.dropped.tolist()
        if any(dropped):
            self.truncated += sum(count > 0 for count in dropped)
        self.answered = time.perf_counter()


class Requests:
    """Wrapper around the requests of HTTP or Flight. Code that must run for every request belongs in `wrap`.

    Safe to use from any thread.
    """

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None, consumers: Sequence[Consumer] = ()) -> None:
        """Set the consumers of records.

        Args:
            metrics: counts every request.
            tracing: ends the spans of traced requests; None if traces are off.
            consumers: functions that receive every record after metrics, log and traces.
        """
        spans = () if tracing is None else (tracing.end,)
        self._consumers: tuple[Consumer, ...] = (metrics.count_request, log_request, *spans, *consumers)

    @contextmanager
    def wrap(self, draft: RecordDraft) -> Iterator[None]:
        """Make the record of a request when the block ends, with or without an error, and pass it to every consumer.

        If a consumer fails, the error is logged. The answer does not change, and the other consumers get the record.
        """
        try:
            yield
        finally:
            # The engine may change the stages of the draft after this, but not those of the record.
            stages = copy.copy(draft.stages)
            stages.total = time.perf_counter() - draft.started
            record = RequestRecord(
                door=draft.door,
                id=draft.id,
                client=draft.client,
                peer=draft.peer,
                route=draft.route,
                model=draft.model,
                version=draft.version,
                space=draft.space,
                texts=draft.texts,
                tokens=draft.tokens,
                bytes_in=draft.bytes_in,
                bytes_out=draft.bytes_out,
                status=draft.status,
                error=draft.error,
                stages=stages,
                trace=draft.trace,
                inputs=tuple(draft.inputs),
                inputs_cut=draft.inputs_cut,
            )
            for consume in self._consumers:
                try:
                    consume(record)
                except Exception:  # the consumer has a defect; the request is already answered
                    logger.exception("a consumer of records failed", extra={"fields": {"request_id": record.id}})
