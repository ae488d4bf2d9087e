"""OpenTelemetry traces of HTTP, Flight, queue, batch and session, read by the SDK's exporter and by a collector."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fletcher.serve.observe.tracing import Tracing
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...doubles.collector import Collector
from ..fake_encoder import SPACE, FakeEncoder

#: Example from W3C's Trace Context, section 3.2.2.5.
TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
TRACEPARENT = f"00-{TRACE:032x}-{PARENT:016x}-01"
UNSAMPLED = f"00-{TRACE:032x}-{PARENT:016x}-00"

STAGES = {"tokenize", "queue", "compute", "output"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def server(fake_encoder: FakeEncoder, spans: InMemorySpanExporter) -> Iterator[Server]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with Server(
        fake_encoder,
        ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10),
        tracing=Tracing(provider),
    ) as running:
        yield running
        fake_encoder.gate.set()


def finished(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    """Return the span with a name. It may end shortly after the answer."""
    return several(spans, name, 1)[0]


def several(spans: InMemorySpanExporter, name: str, count: int) -> list[ReadableSpan]:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        matching = [span for span in spans.get_finished_spans() if span.name == name]
        if len(matching) >= count:
            assert len(matching) == count
            return matching
        time.sleep(0.005)
    raise AssertionError(f"{name} is not among {[span.name for span in spans.get_finished_spans()]}")


def id_of(span: ReadableSpan) -> int:
    return int(span.get_span_context().span_id)  # type: ignore[union-attr]


def trace_of(span: ReadableSpan) -> int:
    return int(span.get_span_context().trace_id)  # type: ignore[union-attr]


def post(url: str, text: str = "ab", **headers: str) -> httpx.Response:
    body = {"model": "fake-model", "input": text}
    return httpx.post(f"{url}/v1/embeddings", json=body, headers=headers, timeout=10)


def test_spans_of_an_http_request_are_children_of_the_span_of_the_caller(
    http_url: str, spans: InMemorySpanExporter
) -> None:
    assert post(http_url, traceparent=TRACEPARENT, **{"x-request-id": "mine"}).status_code == 200
    request = finished(spans, "POST /v1/embeddings")
    assert trace_of(request) == TRACE
    assert request.parent is not None and request.parent.span_id == PARENT and request.parent.is_remote
    assert request.kind is SpanKind.SERVER
    assert request.attributes is not None
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "url.scheme": "http",
        "fletcher.request_id": "mine",
        "fletcher.model": "fake-model",
        "fletcher.version": "1",
        "fletcher.space": SPACE.id,
        "http.response.status_code": 200,
    }
    below = [span for span in spans.get_finished_spans() if span.parent and span.parent.span_id == id_of(request)]
    assert {span.name for span in below} == STAGES
    assert all(trace_of(span) == TRACE for span in below)
    times = {span.name: (span.start_time or 0, span.end_time or 0) for span in [request, *below]}
    begin, end = times["POST /v1/embeddings"]
    slack = 5_000_000  # nanoseconds between two clocks
    assert all(begin - slack <= first <= last <= end + slack for first, last in times.values())
    order = [times[name] for name in ("tokenize", "queue", "compute", "output")]
    assert all(first[1] <= second[0] + slack for first, second in pairwise(order))


def test_a_batch_has_a_separate_trace_with_links_to_its_requests(
    http_url: str, spans: InMemorySpanExporter, fake_encoder: FakeEncoder, server: Server
) -> None:
    fake_encoder.gate.clear()
    threads = [threading.Thread(target=post, args=(http_url, text)) for text in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while server.models.open_requests < 4 and time.monotonic() < until:
        time.sleep(0.005)
    fake_encoder.gate.set()
    for thread in threads:
        thread.join()
    requests = {id_of(span): span for span in several(spans, "POST /v1/embeddings", 4)}
    batches = [span for span in spans.get_finished_spans() if span.name == "batch"]
    linked = [link.context.span_id for span in batches for link in span.links]
    assert sorted(linked) == sorted(requests)
    assert len(batches) < 4, "the last two wait while both workers are busy, and share a batch"
    for batch in batches:
        assert batch.parent is None and trace_of(batch) not in {trace_of(span) for span in requests.values()}
        assert batch.attributes is not None and batch.attributes["fletcher.texts"] == len(batch.links)
        assert batch.attributes["fletcher.tokens"] == 3 * len(
            batch.links
        )  # each text has one letter, between the ids 1 and 2
        assert batch.attributes["fletcher.provider"] == "by hand"
        assert batch.attributes["fletcher.model"] == "fake-model"
    inside = {span.parent.span_id for span in spans.get_finished_spans() if span.name == "session" and span.parent}
    assert inside == {id_of(batch) for batch in batches}
    computed = several(spans, "compute", 4)
    assert {link.context.span_id for span in computed for link in span.links} == {id_of(batch) for batch in batches}
    assert {span.parent.span_id for span in computed if span.parent} == set(requests)


def test_spans_of_a_flight_call_are_children_of_the_span_of_the_caller(
    flight_url: str, spans: InMemorySpanExporter
) -> None:
    options = fl.FlightCallOptions(headers=[(b"traceparent", TRACEPARENT.encode()), (b"x-request-id", b"mine")])
    with fl.connect(flight_url) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
        with writer:
            writer.begin(pa.schema({"text": pa.string()}))
            for text in ("ab", "cd"):
                writer.write_batch(pa.record_batch({"text": [text]}))
                reader.read_chunk()
            writer.done_writing()
            assert not reader.read_all().num_rows
    call = finished(spans, "arrow.flight.protocol.FlightService/DoExchange")
    assert trace_of(call) == TRACE and call.parent is not None and call.parent.span_id == PARENT
    assert call.attributes is not None and call.attributes["fletcher.request_id"] == "mine"
    below = [span.name for span in spans.get_finished_spans() if span.parent and span.parent.span_id == id_of(call)]
    assert sorted(below) == sorted([*STAGES, *STAGES])


def test_requests_that_the_caller_does_not_sample_are_not_traced(http_url: str, spans: InMemorySpanExporter) -> None:
    assert post(http_url, traceparent=UNSAMPLED).status_code == 200
    assert httpx.get(f"{http_url}/ready").status_code == 200  # a probe
    assert post(http_url, traceparent="00-zz").status_code == 200  # an invalid header begins a trace
    assert trace_of(finished(spans, "POST /v1/embeddings")) != TRACE
    assert len([span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]) == 1


def test_failures_are_marked_and_have_no_text(
    http_url: str, spans: InMemorySpanExporter, fake_encoder: FakeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fletcher"):
        fake_encoder.fails = RuntimeError("secret")
        assert post(http_url, "secret text", traceparent=TRACEPARENT).status_code == 500
        fake_encoder.fails = None
        assert post(http_url, traceparent=TRACEPARENT, **{"x-priority": "secret"}).status_code == 400
    broken, refused = several(spans, "POST /v1/embeddings", 2)
    assert broken.status.status_code is StatusCode.ERROR and broken.attributes is not None
    assert broken.attributes["error.type"] == "ProviderError"
    assert refused.status.status_code is StatusCode.UNSET and refused.attributes is not None
    assert refused.attributes["error.type"] == "FieldError"
    assert finished(spans, "session").status.status_code is StatusCode.ERROR
    assert not any("secret" in span.to_json() for span in spans.get_finished_spans())
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    assert [line["trace_id"] for line in lines if "trace_id" in line] == [f"{TRACE:032x}"] * 2


def test_a_joined_request_links_to_the_computed_one(
    http_url: str, spans: InMemorySpanExporter, fake_encoder: FakeEncoder, server: Server
) -> None:
    fake_encoder.gate.clear()
    threads = [threading.Thread(target=post, args=(http_url, "same")) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while server.models.metrics.joined._value.get() < 1 and time.monotonic() < until:
        time.sleep(0.005)
    fake_encoder.gate.set()
    for thread in threads:
        thread.join()
    twins = several(spans, "POST /v1/embeddings", 2)
    joined = [span for span in twins if span.attributes and "fletcher.joined" in span.attributes]
    assert len(joined) == 1
    computed = next(span for span in twins if span is not joined[0])
    assert [link.context.span_id for link in joined[0].links] == [id_of(computed)]


@pytest.mark.parametrize(("given", "instance"), [("", "host:8080"), ("a=b,service.instance.id=mine", "mine")])
def test_the_environment_may_name_the_instance(monkeypatch: pytest.MonkeyPatch, given: str, instance: str) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", given)
    tracing = Tracing.to("http://127.0.0.1:1", "host:8080")
    try:
        assert tracing._provider.resource.attributes["service.instance.id"] == instance
    finally:
        tracing.close()


def test_a_collector_receives_what_the_command_sends(minilm_artifact: Path) -> None:
    with Collector() as collector:
        command = [
            sys.executable,
            "-c",
            "from fletcher.serve.commands.cli import main; main()",
            "run",
            str(minilm_artifact),
        ]
        command += ["--http", "127.0.0.1:0", "--flight", "off", "--json", "--provider", "mlas"]
        command += ["--otlp", collector.url, "--log-level", "debug"]
        environment = os.environ | {"OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None and process.stderr is not None
            url = json.loads(process.stdout.readline())["http"]
            headers = {"traceparent": TRACEPARENT, "x-request-id": "mine"}
            assert httpx.post(f"{url}/embed", json={"inputs": "a text"}, headers=headers, timeout=30).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            lines = [json.loads(line) for line in process.stderr.read().splitlines()]
        finally:
            process.kill()
            process.communicate()
    assert (collector.resource["service.name"], collector.resource["service.instance.id"]) == (
        "fletcher",
        f"{socket.gethostname()}:0",
    )
    named = {span.name: span for span in collector.spans}
    assert set(named) == STAGES | {"POST /embed", "batch", "session"}
    assert int.from_bytes(named["POST /embed"].trace_id) == TRACE
    answered = next(line for line in lines if line["message"] == "request")
    assert (answered["request_id"], answered["trace_id"]) == ("mine", f"{TRACE:032x}")
