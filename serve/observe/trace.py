"""`Trace`: span of an open request, with a child span for each stage, and spans of batches.

The draft of a traced request has a `Trace`. The engine does not depend on OpenTelemetry: it reports every finished stage to
the `Trace`. Without traces, this takes one comparison for each stage. Spans have ids, counts and times, never a text of a
request.

Only a server that writes traces imports this module, because it needs the extra `otel`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from opentelemetry import trace as otel
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

__all__ = ["Trace"]


class Trace:
    """Span of an open request.

    Attributes:
        id: id of the trace, 32 hexadecimal digits, for the log.
        span: span of the request.
        tracer: starts spans.
    """

    __slots__ = ("_context", "id", "span", "tracer")

    def __init__(self, tracer: otel.Tracer, span: Span) -> None:
        """Make the trace of a request.

        Args:
            tracer, span: see the attributes.
        """
        self.tracer = tracer
        self.span = span
        self.id = otel.format_trace_id(span.get_span_context().trace_id)
        self._context = otel.set_span_in_context(span)

    @property
    def parent(self) -> str:
        """The span in W3C's format of `traceparent`, for what the request writes elsewhere."""
        return f"00-{self.id}-{otel.format_span_id(self.span.get_span_context().span_id)}-01"

    def stage(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: Mapping[str, AttributeValue] | None = None,
        *,
        batch: Span | None = None,
    ) -> None:
        """Add a finished stage.

        Args:
            name: name of the stage.
            started, ended: `time.perf_counter()` at its start and end.
            attributes: attributes of its span.
            batch: span of the batch that the stage belongs to, or None.
        """
        links = None if batch is None else [otel.Link(batch.get_span_context())]
        span = self.tracer.start_span(
            name, self._context, attributes=attributes, links=links, start_time=_nanoseconds(started)
        )
        span.end(_nanoseconds(ended))

    def joined(self, other: Trace | None) -> None:
        """Record that the request joined an identical open request, which has the stages.

        Args:
            other: trace of the open request, or None if it is not traced.
        """
        self.span.set_attribute("fletcher.joined", True)
        if other is not None:
            self.span.add_link(other.span.get_span_context())

    @staticmethod
    def batch(
        traces: Sequence[Trace],
        started: float,
        computed: float,
        attributes: Mapping[str, AttributeValue],
        *,
        error: str | None = None,
    ) -> None:
        """Add a batch: a separate trace with a span of the session's run and links to the requests in the batch.

        Args:
            traces: traces of the requests in the batch, at least one.
            started, computed: `time.perf_counter()` before and after the session's run.
            attributes: attributes of the batch.
            error: class of the batch's error, or None.
        """
        tracer, unique = traces[0].tracer, [*dict.fromkeys(traces)]
        begin, end = _nanoseconds(started), _nanoseconds(computed)
        batch = tracer.start_span(
            "batch",
            otel.set_span_in_context(otel.INVALID_SPAN),  # a root span, independent of the current context
            attributes=attributes,
            links=[otel.Link(trace.span.get_span_context()) for trace in unique],
            start_time=begin,
        )
        session = tracer.start_span("session", otel.set_span_in_context(batch), start_time=begin)
        if error is not None:
            for span in (batch, session):
                span.set_attribute("error.type", error)
                span.set_status(otel.StatusCode.ERROR)
        session.end(end)
        batch.end(_nanoseconds(time.perf_counter()))
        for trace in unique:
            trace.stage("compute", started, computed, attributes, batch=batch)


def _nanoseconds(moment: float) -> int:
    """Return the Unix time in nanoseconds of a `time.perf_counter()`. An earlier change of the clock has no effect on it."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)
