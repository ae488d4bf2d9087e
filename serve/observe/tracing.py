"""OpenTelemetry traces: a span a request with its stages below it, and a span a batch that links to the requests in it.

A request that is traced carries a `Trace` in its terms. The engine, which knows nothing of OpenTelemetry, tells it when a
stage is over; where nothing is traced, that is one comparison a stage. Spans hold ids, counts and times, never a text.

Only a server that was asked for traces imports this module: it needs the extra `otel`.
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

__all__ = ["Trace", "Tracing"]

#: Where a collector takes traces by OTLP over HTTP (OpenTelemetry's protocol specification).
OTLP_PATH = "/v1/traces"

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Begins the spans of one server."""

    def __init__(self, provider: TracerProvider) -> None:
        """
        Args:
            provider: where spans go; `close` shuts it down.
        """
        self._provider = provider
        self._tracer = provider.get_tracer("fletcher.serve", __version__)

    @classmethod
    def to(cls, url: str) -> Self:
        """Sends spans to a collector by OTLP over HTTP, in batches, from a thread of the SDK's.

        The SDK's own variables (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_HEADERS`, …) say the rest.

        Args:
            url: of the collector, such as `http://127.0.0.1:4318`.

        Raises:
            InputError: it is no such URL.
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
        """Begins a request's span below the one that its headers name (W3C's `traceparent` and `tracestate`).

        Args:
            name: of the span, from a short list.
            headers: the request's, names in lower case.
            attributes: of the span.

        Returns:
            What the request carries, or None where it is not sampled.
        """
        context = _propagator.extract(headers)
        span = self._tracer.start_span(name, context, otel.SpanKind.SERVER, attributes)
        return Trace(self._tracer, span) if span.is_recording() else None

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


class Trace:
    """The span of a request under way.

    Attributes:
        id: of the whole trace, 32 hexadecimal digits, for the log.
        span: the request's.
        tracer: what begins spans.
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
        """Adds a stage that is over.

        Args:
            name: which one.
            started, ended: `time.perf_counter()`.
            attributes: of its span.
            batch: the span of the batch that it was part of.
        """
        links = None if batch is None else [otel.Link(batch.get_span_context())]
        span = self.tracer.start_span(
            name, self._context, attributes=attributes, links=links, start_time=_nanoseconds(started)
        )
        span.end(_nanoseconds(ended))

    def joined(self, other: Trace | None) -> None:
        """Notes that the answer is an identical request's, which has the stages."""
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
        """Adds a batch: a trace of its own with the session's run in it, linked with the requests that it served.

        Args:
            traces: of the requests in it, at least one.
            started, computed: `time.perf_counter()` around the session's run.
            attributes: of the batch.
            error: class of what it failed with, or None.
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

    def fail(self, kind: str) -> None:
        """Notes an error by its class; what it says may hold what a client wrote."""
        self.span.set_attribute("error.type", kind)

    def end(self, attributes: Mapping[str, AttributeValue] | None = None, *, broken: bool = False) -> None:
        """Ends it.

        Args:
            attributes: what is known now.
            broken: whether the server failed.
        """
        if attributes:
            self.span.set_attributes(attributes)
        if broken:
            self.span.set_status(otel.StatusCode.ERROR)
        self.span.end()


def _nanoseconds(moment: float) -> int:
    """Unix time of a `time.perf_counter()`, which no change of the clock moves."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)
