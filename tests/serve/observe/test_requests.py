"""Records of requests of HTTP and Flight: each request has one record with correct values, and consumers receive it."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import POISON, FakeEncoder, request_for

SECONDS = 10.0

Records = list[RequestRecord]


@pytest.fixture
def records() -> Records:
    return []


@pytest.fixture
def server(fake_encoder: FakeEncoder, records: Records) -> Iterator[Server]:
    with serving(fake_encoder, records) as running:
        yield running


@contextmanager
def serving(encoder: FakeEncoder, records: Records, **options: Any) -> Iterator[Server]:
    chosen = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10, admin="on", **options)
    with Server(encoder, chosen, consumers=(records.append,)) as running:
        yield running
        encoder.gate.set()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def only(records: Records) -> RequestRecord:
    """Return the only record. It may be made shortly after the client has read the answer."""
    wait_for(lambda: bool(records))
    time.sleep(0.05)
    assert len(records) == 1
    return records[0]


def post(
    server: Server, content: bytes | dict[str, Any], path: str = "/v1/embeddings", **headers: str
) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = {"accept-encoding": "identity"} | headers  # so that the size of the answer is that of its content
    return httpx.post(f"{server.addresses.http}{path}", content=body, headers=headers, timeout=SECONDS)


def body_of(*texts: str) -> bytes:
    return json.dumps({"model": "fake-model", "input": list(texts)}).encode()


def test_an_answered_http_request(server: Server, records: Records) -> None:
    body = body_of("ab", "x" * 20)
    response = post(server, body, **{"x-request-id": "mine"})
    record = only(records)
    assert (record.door, record.id, record.client, record.route) == ("http", "mine", "127.0.0.1", "/v1/embeddings")
    assert (record.model, record.version) == ("fake-model", "1")
    assert (record.texts, record.tokens) == (2, 20) == (2, response.json()["usage"]["total_tokens"])
    assert (record.bytes_in, record.bytes_out) == (len(body), len(response.content))
    assert (record.status, record.error, record.trace) == (200, None, None)
    stages = record.stages
    parts = (stages.read, stages.wait, stages.tokenize, stages.compute, stages.encode)
    assert all(seconds > 0 for seconds in parts)
    assert sum(parts) <= stages.total < SECONDS


def test_the_stages_have_the_time_of_the_computation(
    fake_encoder: FakeEncoder, server: Server, records: Records
) -> None:
    fake_encoder.delay = 0.2
    assert post(server, body_of("ab")).status_code == 200
    stages = only(records).stages
    assert 0.2 <= stages.compute <= stages.total
    assert stages.tokenize + stages.encode < 0.2


@pytest.mark.parametrize(
    ("content", "status", "error", "size"),
    [
        (b"{", 400, "FieldError", 1),
        (body_of("ab", "cd").replace(b'"cd"', b"3"), 400, "FieldError", None),
        (body_of("ab").replace(b"fake-model", b"other"), 404, "UnknownModelError", None),
        (b"x" * 3000, 413, "TooLargeError", 0),  # rejected for its length
    ],
)
def test_a_rejected_http_request(
    fake_encoder: FakeEncoder, records: Records, content: bytes, status: int, error: str, size: int | None
) -> None:
    with serving(fake_encoder, records, max_body=2000) as server:
        response = post(server, content)
        record = only(records)
    assert (response.status_code, record.status, record.error) == (status, status, error)
    assert (record.texts, record.tokens, record.model) == (0, 0, "")
    assert record.bytes_in == (len(content) if size is None else size)
    assert record.bytes_out == len(response.content)


def test_an_http_request_without_a_key_and_one_with(
    fake_encoder: FakeEncoder, records: Records, tmp_path: Path
) -> None:
    key = add_key(tmp_path / "keys", "ann")
    with serving(fake_encoder, records, keys=str(tmp_path / "keys")) as server:
        assert post(server, body_of("ab")).status_code == 401
        refused = only(records)
        assert (refused.status, refused.error, refused.client) == (401, "UnauthorizedError", "127.0.0.1")
        assert refused.bytes_in == 0, "the body is not read"
        records.clear()
        assert post(server, body_of("ab"), authorization=f"Bearer {key}").status_code == 200
        assert only(records).client == "ann"


def test_an_overloaded_server(records: Records) -> None:
    encoder = FakeEncoder(workers=1, token_budget=4)
    encoder.gate.clear()
    with serving(encoder, records, queue_tokens=6) as server:
        engine = server.engine
        first = engine.submit(request_for(["ab"]))
        wait_for(lambda: engine.admission.tokens == 0)  # the worker has it
        second = engine.submit(request_for(["cd"]))
        response = post(server, body_of("ef"))
        record = only(records)
        encoder.gate.set()
        assert len(first.result(SECONDS)) == len(second.result(SECONDS)) == 1
    assert (response.status_code, record.status, record.error) == (429, 429, "OverloadedError")
    assert (record.texts, record.tokens) == (0, 0)


def test_paths_that_do_not_exist_have_one_route(server: Server, records: Records) -> None:
    assert post(server, b"", "/nowhere").status_code == 404
    record = only(records)
    assert (record.route, record.status, record.error) == ("unknown", 404, "UnknownRouteError")


def broken(*_: Any, **__: Any) -> None:
    raise KeyError("a defect")


def test_a_defect_of_the_server(
    fake_encoder: FakeEncoder, server: Server, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_encoder, "prepare", broken)
    assert post(server, body_of("ab")).status_code == 500
    record = only(records)
    assert (record.status, record.error) == (500, "FletcherError")


def test_a_client_that_leaves(fake_encoder: FakeEncoder, server: Server, records: Records) -> None:
    fake_encoder.gate.clear()
    body = body_of("ab")
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    port = int(str(server.addresses.http).rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        wait_for(lambda: server.models.open_requests == 1)
        time.sleep(0.1)  # the server watches the connection only when its answer takes a while
    record = only(records)
    assert (record.status, record.error) == ("left", None)
    assert (record.texts, record.bytes_in, record.bytes_out) == (0, len(body), 0)
    assert samples(server)["fletcher_requests_total", "left"] == 1


def test_a_stream_of_lines(server: Server, records: Records) -> None:
    texts = [f"text {number:03}" for number in range(150)]
    body = body_of(*texts)
    response = post(server, body, accept="application/x-ndjson")
    assert len(response.content.splitlines()) == 151
    record = only(records)
    assert (record.status, record.error, record.texts) == (200, None, 150)
    assert record.tokens == 150 * 10 == json.loads(response.content.splitlines()[-1])["usage"]["total_tokens"]
    assert (record.bytes_in, record.bytes_out) == (len(body), len(response.content))
    assert record.stages.encode > 0


def test_an_error_in_the_middle_of_a_stream_of_lines(server: Server, records: Records) -> None:
    texts = [f"text {number:03}" for number in range(150)]
    texts[100] = POISON
    response = post(server, body_of(*texts), accept="application/x-ndjson")
    assert response.status_code == 200
    assert "error" in json.loads(response.content.splitlines()[-1])
    record = only(records)
    assert (record.status, record.error, record.texts, record.tokens) == (200, "NotFiniteError", 64, 640)
    assert record.bytes_out == len(response.content)
    counts = samples(server)
    assert counts["fletcher_requests_total", "200"] == 1
    assert ("fletcher_errors_total", "NotFiniteError") not in counts


def test_other_apis_have_the_same_records(server: Server, records: Records) -> None:
    assert post(server, {"inputs": ["ab", "cde"]}, "/embed").status_code == 200
    record = only(records)
    assert (record.route, record.texts, record.tokens, record.model) == ("/embed", 2, 9, "fake-model")


def test_the_admin_api(server: Server, records: Records) -> None:
    response = httpx.get(f"{server.addresses.http}/admin/models")
    record = only(records)
    assert (record.route, record.status, record.client) == ("/admin/models", 200, "127.0.0.1")
    assert (record.texts, record.model, record.bytes_out) == (0, "", len(response.content))


def samples(server: Server) -> dict[tuple[str, str], float]:
    """Return the values of the metrics by name and status, or by type of error."""
    return {
        (sample.name, sample.labels.get("status", sample.labels.get("type", ""))): sample.value
        for family in text_string_to_metric_families(server.models.metrics.exposition().decode())
        for sample in family.samples
    }


# Flight -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(flight_url: str) -> Iterator[Any]:
    with fl.connect(flight_url) as connected:
        yield connected


def exchange(client: Any, batches: list[Any], options: Any = None) -> list[Any]:
    """Send the batches one by one, and return the answers."""
    answers = []
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
    with writer:
        writer.begin(batches[0].schema)
        for batch in batches:
            writer.write_batch(batch)
            answers.append(reader.read_chunk().data)
        writer.done_writing()
        reader.read_all()
    return answers


def test_an_exchange(client: Any, records: Records) -> None:
    batches = [pa.record_batch({"text": texts}) for texts in (["ab", "cde"], ["f"])]
    answers = exchange(client, batches, fl.FlightCallOptions(headers=[(b"x-request-id", b"mine")]))
    record = only(records)
    assert (record.door, record.id, record.client, record.route) == ("flight", "mine", "127.0.0.1", "exchange")
    assert (record.model, record.version, record.texts, record.tokens) == ("fake-model", "1", 3, 12)
    assert record.bytes_in == sum(batch.nbytes for batch in batches)
    assert record.bytes_out == sum(answer.nbytes for answer in answers)
    assert (record.status, record.error) == ("ok", None)
    stages = record.stages
    assert stages.tokenize > 0 and stages.compute > 0 and stages.wait > 0
    assert stages.tokenize + stages.compute + stages.wait <= stages.total


def test_an_exchange_that_breaks_off(client: Any, records: Records) -> None:
    with pytest.raises(pa.ArrowInvalid, match="is null"):
        exchange(client, [pa.record_batch({"text": pa.array(texts, pa.string())}) for texts in (["ab"], [None])])
    record = only(records)
    assert (record.status, record.error) == ("InvalidArgument", "FieldError")
    assert (record.texts, record.tokens, record.route) == (1, 4, "exchange")


def test_a_defect_of_the_server_on_flight(
    fake_encoder: FakeEncoder, client: Any, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_encoder, "prepare", broken)
    with pytest.raises(fl.FlightInternalError):
        client.do_get(fl.Ticket(b'{"texts": ["ab"]}'))
    record = only(records)
    assert (record.status, record.error) == ("FlightInternalError", "FletcherError")


def test_a_get(client: Any, records: Records) -> None:
    ticket = json.dumps({"texts": ["ab", "cde"]}).encode()
    table = client.do_get(fl.Ticket(ticket)).read_all()
    record = only(records)
    assert (record.route, record.texts, record.tokens, record.status) == ("get", 2, 9, "ok")
    assert (record.bytes_in, record.bytes_out) == (len(ticket), table.nbytes)


def test_actions(client: Any, records: Records) -> None:
    (result,) = client.do_action("health")
    record = only(records)
    assert (record.route, record.status, record.texts) == ("action", "ok", 0)
    assert (record.bytes_in, record.bytes_out) == (0, result.body.size)
    records.clear()
    with pytest.raises(pa.ArrowKeyError):
        list(client.do_action(fl.Action("unload", b"nothing")))
    record = only(records)
    assert (record.route, record.status, record.error, record.bytes_in) == (
        "action",
        "NotFound",
        "UnknownModelError",
        7,
    )
    records.clear()
    assert client.list_actions()
    assert (only(records).route, records[0].status) == ("actions", "ok")


def test_a_flight_call_without_a_key(fake_encoder: FakeEncoder, records: Records, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ann")
    with (
        serving(fake_encoder, records, keys=str(tmp_path / "keys")) as server,
        fl.connect(server.addresses.flight) as client,
    ):
        with pytest.raises(fl.FlightUnauthenticatedError):
            list(client.do_action("health", fl.FlightCallOptions(headers=[(b"x-request-id", b"mine")])))
        record = only(records)
        assert (record.id, record.route, record.client) == ("mine", "action", "")
        assert (record.status, record.error) == ("FlightUnauthenticatedError", "UnauthorizedError")
        records.clear()
        list(client.do_action("health", fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {key}".encode())])))
        assert only(records).client == "ann"


# Consumers ----------------------------------------------------------------------------------------------------------------


def test_a_consumer_that_fails_is_logged_and_changes_nothing(
    fake_encoder: FakeEncoder, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(record: RequestRecord) -> None:
        raise ValueError("the disk is full")

    options = ServerOptions(http="127.0.0.1:0", flight="off")
    with Server(fake_encoder, options, consumers=(broken, records.append)) as server:
        assert post(server, body_of("ab"), **{"x-request-id": "mine"}).status_code == 200
        assert only(records).status == 200
    failures = [line for line in caplog.records if line.name == "fletcher.serve.observe"]
    assert [(line.levelno, line.fields) for line in failures] == [(logging.ERROR, {"request_id": "mine"})]  # type: ignore[attr-defined]


def test_a_record_is_frozen_and_holds_no_text(server: Server, records: Records) -> None:
    assert post(server, body_of("TELLTALE")).status_code == 200
    record = only(records)
    assert "TELLTALE" not in repr(record)
    with pytest.raises(AttributeError):
        record.texts = 5  # type: ignore[misc]
