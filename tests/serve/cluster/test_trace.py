"""One trace from a client through a balancer and a server to the rows of Longbow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from numpy.typing import NDArray
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fletcher.serve.observe.tracing import Tracing
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...doubles.longbow import LongbowDouble
from ..fake_encoder import FakeEncoder
from ..observe.test_tracing import PARENT, TRACE, TRACEPARENT, finished, id_of, trace_of
from .balancers import Balanced, balanced, cluster_of


class UnitLengths(FakeEncoder):
    """Fake encoder with vectors of length 1, which Longbow's rows have."""

    def run(self, batch: Any, output: str | None = None, /) -> NDArray[np.float32]:
        vectors = super().run(batch, output)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def longbow() -> Iterator[LongbowDouble]:
    with LongbowDouble() as double:
        yield double


@pytest.fixture(params=["haproxy", pytest.param("envoy", marks=pytest.mark.slow)])
def balancer(
    request: pytest.FixtureRequest, spans: InMemorySpanExporter, longbow: LongbowDouble, tmp_path: Path
) -> Iterator[Balanced]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    options = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", longbow=longbow.url, longbow_timeout=3.0)
    with Server(UnitLengths(), options, tracing=Tracing(provider)) as server:
        http, flight = (str(url).rpartition("//")[2] for url in (server.addresses.http, server.addresses.flight))
        cluster = cluster_of({"p": (("fake-model",), {"a": (http, flight)})})
        with balanced(request.param, cluster, tmp_path) as running:
            yield running


def test_one_trace_leads_from_the_client_to_the_rows_of_longbow(
    balancer: Balanced, spans: InMemorySpanExporter, longbow: LongbowDouble
) -> None:
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=x", "x-request-id": "mine"}
    body = {"dataset": "docs", "documents": ["one"]}
    answer = httpx.post(f"{balancer.http}/v1/ingest", json=body, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    request = finished(spans, "POST /v1/ingest")
    context = request.get_span_context()
    assert context is not None
    assert trace_of(request) == TRACE and context.trace_state.get("vendor") == "x"
    assert request.parent is not None and request.parent.span_id == PARENT  # the balancer has no span of its own
    assert request.attributes is not None
    assert request.attributes["fletcher.model"] == "fake-model" and request.attributes["fletcher.request_id"] == "mine"
    written = finished(spans, "longbow")
    assert trace_of(written) == TRACE and written.parent is not None and written.parent.span_id == id_of(request)
    assert written.attributes is not None
    assert dict(written.attributes) == {"fletcher.dataset": "docs", "fletcher.texts": 1}
    (row,) = longbow.store.live("docs").drop_columns(["timestamp"]).to_pylist()
    metadata = json.loads(row["metadata"])
    assert metadata["trace"] == "mine"
    assert metadata["traceparent"] == f"00-{TRACE:032x}-{id_of(request):016x}-01"


def test_a_flight_call_keeps_its_trace(balancer: Balanced, spans: InMemorySpanExporter) -> None:
    options = fl.FlightCallOptions(headers=[(b"traceparent", TRACEPARENT.encode())])
    with fl.connect(balancer.flight) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
        with writer:
            writer.begin(pa.schema({"text": pa.string()}))
            writer.write_batch(pa.record_batch({"text": ["ab"]}))
            writer.done_writing()
            reader.read_all()
    call = finished(spans, "arrow.flight.protocol.FlightService/DoExchange")
    assert trace_of(call) == TRACE and call.parent is not None and call.parent.span_id == PARENT
    assert call.attributes is not None and call.attributes["fletcher.model"] == "fake-model"
