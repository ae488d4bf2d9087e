"""OpenTelemetry traces: a span for each request with its stages below it, and a span for each batch, linked to its requests.

A request that is traced carries a `Trace` in its terms. The engine, which does not know OpenTelemetry, reports every finished
stage to it; without traces this costs one comparison for each stage. Spans hold ids, counts and times, never a text.

Only a server that writes traces imports this module: it needs the extra `otel`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Self
from urllib.parse import urlsplit

from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from fletcher import __version__
from fletcher.runtime.errors import InputError

from .record import RequestRecord

__all__ = ["Trace", "Tracing"]

#: Path at which a collector takes traces by OTLP over HTTP (OpenTelemetry's protocol specification).
OTLP_PATH = "/v1/traces"

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Begins and ends the spans of one server's requests."""

    def __init__(self, provider: TracerProvider) -> None:
        """
        Args:
            provider: receives the spans; `close` shuts it down.
        """
        self._provider = provider
        self._tracer = provider.get_tracer("fletcher.serve", __version__)

    @classmethod
    def to(cls, url: str) -> Self:
        """Return a tracing that sends spans to a collector by OTLP over HTTP, in batches, from a thread of the SDK's.

        The SDK's own variables (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_HEADERS`, …) set the rest.

        Args:
            url: of the collector, such as `http://127.0.0.1:4318`.

        Raises:
            InputError: the URL is not one of HTTP.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--otlp is {url!r}: give the collector's URL, such as http://127.0.0.1:4318")
        name = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "fletcher"}
        provider = TracerProvider(resource=Resource.create(name))
        endpoint = url if parts.path.strip("/") else url.rstrip("/") + OTLP_PATH
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider)

    def begin(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue]) -> Trace | None:
        """Begin a request's span below the span that its headers name (W3C's `traceparent` and `tracestate`).

        Args:
            name: of the span, from a short list.
            headers: the request's, names in lower case.
            attributes: of the span.

        Returns:
            The span, for the request's terms; None if the request is not sampled.
        """
        context = _propagator.extract(headers)
        span = self._tracer.start_span(name, context, otel.SpanKind.SERVER, attributes)
        return Trace(self._tracer, span) if span.is_recording() else None

    def end(self, record: RequestRecord) -> None:
        """End the span of a finished request. An error is noted by its class; its message may hold a client's words."""
        if (trace := record.trace) is None:
            return
        span, error = trace.span, "left" if record.status == "left" else record.error
        if error is not None:
            span.set_attribute("error.type", error)
        if isinstance(record.status, int):
            span.set_attribute("http.response.status_code", record.status)
            if record.status >= 500:
                span.set_status(otel.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send the spans that have not been sent."""
        self._provider.shutdown()


class Trace:
    """Span of a request that is under way.

    Attributes:
        id: id of the whole trace, 32 hexadecimal digits, for the log.
        span: the request's span.
        tracer: begins spans.
    """

    __slots__ = ("_context", "id", "span", "tracer")

    def __init__(self, tracer: otel.Tracer, span: Span) -> None:
        """
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
