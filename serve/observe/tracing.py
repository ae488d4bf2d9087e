"""`Tracing`: starts and ends OpenTelemetry spans of requests, and sends them to a collector.

Only a server that writes traces imports this module, because it needs the extra `otel`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from fletcher import __version__
from fletcher.runtime.errors import InputError

from .record import RequestRecord
from .trace import Trace

__all__ = ["Tracing"]

#: Path for traces by OTLP over HTTP at a collector (OpenTelemetry's protocol specification).
OTLP_PATH = "/v1/traces"

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Spans of the requests of one server."""

    def __init__(self, provider: TracerProvider) -> None:
        """Start without spans.

        Args:
            provider: receives the spans; `close` shuts it down.
        """
        self._provider = provider
        self._tracer = provider.get_tracer("fletcher.serve", __version__)

    @classmethod
    def to(cls, url: str, instance: str) -> Self:
        """Return a `Tracing` that sends spans to a collector by OTLP over HTTP. A thread of the SDK sends them in batches.

        The environment variables of the SDK (`OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_HEADERS`, …)
        configure everything else.

        Args:
            url: URL of the collector, such as `http://127.0.0.1:4318`.
            instance: name of the server among the servers of a cluster; OTEL_RESOURCE_ATTRIBUTES has priority over it.

        Raises:
            InputError: the URL is not an HTTP URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"--otlp is {url!r}: give the collector's URL, such as http://127.0.0.1:4318")
        names: dict[str, AttributeValue] = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "fletcher"}
        if SERVICE_INSTANCE_ID not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            names[SERVICE_INSTANCE_ID] = instance
        provider = TracerProvider(resource=Resource.create(names))
        endpoint = url if parts.path.strip("/") else url.rstrip("/") + OTLP_PATH
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider)

    def begin(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue]) -> Trace | None:
        """Start the span of a request, as a child of the span in its headers (W3C's `traceparent` and `tracestate`).

        Args:
            name: name of the span, from a bounded list.
            headers: headers of the request, with names in lower case.
            attributes: attributes of the span.

        Returns:
            The trace for the draft of the request; None if the request is not sampled.
        """
        context = _propagator.extract(headers)
        span = self._tracer.start_span(name, context, otel.SpanKind.SERVER, attributes)
        return Trace(self._tracer, span) if span.is_recording() else None

    def end(self, record: RequestRecord) -> None:
        """End the span of a finished request. It gets the model that answered, and the class of an error, but not the
        message, which may quote a text.
        """
        if (trace := record.trace) is None:
            return
        if record.model:
            names = {"fletcher.model": record.model, "fletcher.version": record.version, "fletcher.space": record.space}
            trace.span.set_attributes({name: value for name, value in names.items() if value})
        span, error = trace.span, "left" if record.status == "left" else record.error
        if error is not None:
            span.set_attribute("error.type", error)
        if isinstance(record.status, int):
            span.set_attribute("http.response.status_code", record.status)
            if record.status >= 500:
                span.set_status(otel.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send the remaining spans, and shut the provider down."""
        self._provider.shutdown()
