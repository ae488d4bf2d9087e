"""`Trace`: the span of one request under way, with a span below it for each stage, and spans of batches.

A request that is traced carries a `Trace` in its terms. The engine, which does not know OpenTelemetry, reports every finished
stage to it; without traces this costs one comparison for each stage. Spans hold ids, counts and times, never a text.

Only a server that writes traces imports this module: it needs the extra `otel`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from opentelemetry import trace as otel
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

__all__ = ["Trace"]


class Trace:
    """Span of a request that is under way.

    Attributes:
        id: id of the whole trace, 32 hexadecimal digits, for the log.
        span: the request's span.
        tracer: begins spans.
    """

    __slots__ = ("_context", "id", "span", "tracer")

    def __init__(self, tracer: otel.Tracer, span: Span) -> None:
        """Begin the trace of a request.

        Args:
            tracer, span: see above.
        """
        self.tracer = tracer
        self.span = span
        self.id = otel.format_trace_id(span.get_span_context().trace_id)
        self._context = otel.set_span_in_context(span)

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
            name: the stage's name.
            started, ended: `time.perf_counter()`.
            attributes: attributes of the stage's span.
            batch: the span of the batch that the stage belongs to.
        """
        links = None if batch is None else [otel.Link(batch.get_span_context())]
        span = self.tracer.start_span(
            name, self._context, attributes=attributes, links=links, start_time=_nanoseconds(started)
        )
        span.end(_nanoseconds(ended))

    def joined(self, other: Trace | None) -> None:
        """Note that an identical request, which has the stages, gives the answer."""
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
        """Add a batch: a trace of its own that holds the session's run, with links to the batch's requests.

        Args:
            traces: of the requests in it, at least one.
            started, computed: `time.perf_counter()` around the session's run.
            attributes: of the batch.
            error: class of the error that the batch failed with, or None.
        """
        tracer, every = traces[0].tracer, [*dict.fromkeys(traces)]
        begin, end = _nanoseconds(started), _nanoseconds(computed)
        batch = tracer.start_span(
            "batch",
            otel.set_span_in_context(otel.INVALID_SPAN),  # a root, whatever is current
            attributes=attributes,
            links=[otel.Link(trace.span.get_span_context()) for trace in every],
            start_time=begin,
        )
        session = tracer.start_span("session", otel.set_span_in_context(batch), start_time=begin)
        if error is not None:
            for span in (batch, session):
                span.set_attribute("error.type", error)
                span.set_status(otel.StatusCode.ERROR)
        session.end(end)
        batch.end(_nanoseconds(time.perf_counter()))
        for trace in every:
            trace.stage("compute", started, computed, attributes, batch=batch)


def _nanoseconds(moment: float) -> int:
    """Return the Unix time, in nanoseconds, of a `time.perf_counter()`; a change of the clock does not move it."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)
