"""Ingestion into Longbow through the server, over HTTP and Flight, as clients use it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from numpy.typing import NDArray

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.longbow.door import MAX_CHANNELS
from fletcher.serve.longbow.wire.schema import longbow_schema, make_batch
from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...doubles.longbow import LongbowDouble
from ..engine.test_engine import wait_for
from ..fake_encoder import FakeEncoder, expected, request_for


class UnitLengths(FakeEncoder):
    """Fake encoder with vectors of length 1."""

    def run(self, batch: Any, output: str | None = None, /) -> NDArray[np.float32]:
        vectors = super().run(batch, output)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@pytest.fixture
def serving(longbow: LongbowDouble) -> Iterator[Server]:
    options = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", longbow=longbow.url, longbow_timeout=3.0)
    with Server(UnitLengths(), options) as server:
        yield server


def post(server: Server, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.addresses.http}/v1/ingest", json=body, timeout=20)


def test_documents_over_http(serving: Server, longbow: LongbowDouble) -> None:
    documents = ["one", {"text": "two", "id": 7, "metadata": {"lang": "en"}}, {"text": "three", "id": "c"}, "one"]
    answer = post(serving, {"dataset": "docs", "documents": documents})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["sent"], body["duplicates"]) == (3, 1)
    assert body["ids"][1] == 7
    assert body["ids"][0] == body["ids"][3]
    rows = {row["id"]: row for row in longbow.store.live("docs").drop_columns(["timestamp"]).to_pylist()}
    assert {rows[number]["text"] for number in body["ids"]} == {"one", "two", "three"}
    vector = expected("two")
    np.testing.assert_allclose(rows[7]["vector"], vector / np.linalg.norm(vector), rtol=1e-6)
    metadata = json.loads(rows[7]["metadata"])
    assert metadata["fields"] == {"lang": "en"}
    assert metadata["trace"].startswith("req-")
    assert metadata["space"] == body["space"] == answer.headers["x-space"] == UnitLengths().info.space.id


def test_another_space_s_vectors_are_not_stored(serving: Server, longbow: LongbowDouble) -> None:
    space = UnitLengths().info.space.id
    body = {"dataset": "docs", "documents": ["one"]}
    url = f"{serving.addresses.http}/v1/ingest"
    refused = httpx.post(url, json=body, headers={"If-Space": "fs1-x"}, timeout=20)
    assert refused.status_code == 412 and refused.json()["error"]["code"] == "other_space"
    headers = [(b"if-space", b"fs1-x")]
    with fl.connect(serving.addresses.flight) as client, pytest.raises(pa.ArrowInvalid, match="accepts only fs1-x"):
        table = pa.table({"id": [1], "text": ["a"]})
        descriptor = fl.FlightDescriptor.for_path("longbow", "docs")
        writer, _ = client.do_put(descriptor, table.schema, fl.FlightCallOptions(headers=headers))
        writer.write_table(table)
        writer.close()
    assert not longbow.store.ids("docs")
    assert httpx.post(url, json=body, headers={"If-Space": space}, timeout=20).status_code == 200


def test_long_documents_are_reported_or_refused(serving: Server, longbow: LongbowDouble) -> None:
    body = {"dataset": "long", "documents": ["one", "a text that is longer than the model takes"]}
    url = f"{serving.addresses.http}/v1/ingest"
    refused = httpx.post(url, json=body, headers={"x-on-truncate": "refuse"}, timeout=20)
    assert refused.status_code == 400 and "has 44 tokens" in refused.text
    answer = httpx.post(url, json=body, timeout=20)
    assert (answer.status_code, answer.headers["x-truncated"]) == (200, "1")
    assert len(longbow.store.ids("long")) == 2  # none of them came from the refused request
    options = ServerOptions(http="127.0.0.1:0", flight="off", longbow=longbow.url, on_truncate="refuse")
    with Server(UnitLengths(), options) as strict:
        assert post(strict, body).status_code == 400


def test_documents_over_flight(serving: Server, longbow: LongbowDouble) -> None:
    with fl.connect(serving.addresses.flight) as client:
        table = pa.table({"id": [1, 2], "text": ["a", "b"], "n": [10, 20]})
        writer, reader = client.do_put(fl.FlightDescriptor.for_path("longbow", "docs"), table.schema)
        writer.write_table(table)
        ack = json.loads(reader.read().to_pybytes())
        writer.close()
    assert ack == {"status": "acked", "batch_id": 1, "rows": 2, "sent": 2}
    assert longbow.store.ids("docs") == [1, 2]


def test_records_of_what_was_ingested(longbow: LongbowDouble) -> None:
    records: list[RequestRecord] = []

    def next_record() -> RequestRecord:
        """Return the only record. The server may make it shortly after the client has read the answer."""
        until = time.monotonic() + 10
        while not records and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.05)
        assert len(records) == 1
        return records.pop()

    options = ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", longbow=longbow.url, longbow_timeout=3.0)
    with Server(UnitLengths(), options, consumers=(records.append,)) as server:
        answer = post(server, {"dataset": "docs", "documents": ["one", {"text": "two"}, "one"]})
        record = next_record()
        assert (record.route, record.status, record.model, record.version) == ("/v1/ingest", 200, "fake-model", "1")
        assert (record.texts, record.tokens) == (2, 10) == (answer.json()["sent"], answer.json()["tokens"])
        assert record.bytes_out == len(answer.content)
        assert record.stages.compute > 0
        with fl.connect(server.addresses.flight) as client:
            table = pa.table({"id": [1, 2], "text": ["a", "b"]})
            writer, reader = client.do_put(fl.FlightDescriptor.for_path("longbow", "docs"), table.schema)
            writer.write_table(table)
            acknowledgement = reader.read().to_pybytes()
            writer.close()
        record = next_record()
        assert (record.door, record.route, record.status, record.texts, record.tokens) == ("flight", "put", "ok", 2, 6)
        assert (record.bytes_in, record.bytes_out) == (table.nbytes, len(acknowledgement))


def test_errors_name_documents_that_cannot_be_ingested(serving: Server, longbow: LongbowDouble) -> None:
    for body, message in (
        ({"dataset": "d", "documents": [" "]}, "documents[0] has no text"),
        ({"dataset": "d", "documents": [{"text": "a", "id": 2**32}]}, "does not fit"),
        ({"dataset": "d", "documents": [{"text": "a", "id": 1}, {"text": "b", "id": 1}]}, "has the id 1"),
        ({"dataset": "", "documents": ["a"]}, "the dataset has no name"),
        ({"documents": ["a"]}, "missing required field `dataset`"),
        ({"dataset": "d", "documents": ["a"] * 2049}, "the limit is 2048"),
        ({"dataset": "d", "documents": ["a"], "dimensions": 5}, "dimensions is 5"),
    ):
        answer = post(serving, body)
        assert answer.status_code == 400, body
        assert message in answer.json()["error"]["message"]
    assert longbow.store.datasets == {}
    with fl.connect(serving.addresses.flight) as client:
        writer, _ = client.do_put(fl.FlightDescriptor.for_path("elsewhere"), pa.schema([("text", pa.string())]))
        with pytest.raises(pa.ArrowKeyError, match="DoPut does not accept the path"):
            writer.close()


def test_ingestion_fails_while_longbow_is_away_and_works_after_its_return(
    serving: Server, longbow: LongbowDouble
) -> None:
    body = {"dataset": "docs", "documents": ["a"]}
    longbow.store.faults.refuse = True
    assert post(serving, body).status_code in (429, 503)
    longbow.store.faults.refuse = False
    answer = post(serving, body)
    for _ in range(60):
        if answer.status_code == 200:
            break
        answer = post(serving, body)
    assert answer.status_code == 200
    assert len(longbow.store.ids("docs")) == 1


def test_vectors_that_are_not_normalized_are_not_ingested(longbow: LongbowDouble) -> None:
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off", longbow=longbow.url)) as server:
        answer = post(server, {"dataset": "docs", "documents": ["a"]})
    assert answer.status_code == 400
    assert "and not 1" in answer.json()["error"]["message"]


def test_a_server_without_longbow(server: Server) -> None:
    answer = post(server, {"dataset": "docs", "documents": ["a"]})
    assert answer.status_code == 404
    assert "--longbow grpc://HOST:PORT" in answer.json()["error"]["message"]


def test_a_dataset_of_another_length(serving: Server, longbow: LongbowDouble) -> None:
    schema = longbow_schema(4, with_text=True)
    other = make_batch(schema, np.array([1]), np.full((1, 4), 0.5, np.float32), ["a"], ["{}"])
    longbow.store.append(longbow.store.open("docs", schema), other)
    answer = post(serving, {"dataset": "docs", "documents": ["a"]})
    assert answer.status_code == 400
    assert "has vectors of 4 numbers" in answer.json()["error"]["message"]
    assert longbow.store.ids("docs") == [1]


def test_a_client_with_a_short_timeout(serving: Server, longbow: LongbowDouble) -> None:
    longbow.store.faults.ack_seconds = 1.0
    answer = httpx.post(
        f"{serving.addresses.http}/v1/ingest",
        json={"dataset": "docs", "documents": ["a"]},
        headers={"X-Request-Timeout": "0.2"},
        timeout=20,
    )
    assert answer.status_code == 504
    assert "the rows may still arrive" in answer.json()["error"]["message"]


def test_documents_wait_while_the_queue_is_full_as_bulk_work_of_their_client(longbow: LongbowDouble) -> None:
    encoder = UnitLengths(workers=1)
    encoder.gate.clear()
    options = ServerOptions(http="127.0.0.1:0", flight="off", longbow=longbow.url, queue_tokens=4)
    with Server(encoder, options) as server, ThreadPoolExecutor(1) as pool:
        admission = server.engine.admission
        server.engine.submit(request_for(["ab"]))
        wait_for(lambda: admission.tokens == 0)
        server.engine.submit(request_for(["cd"]))
        answer = pool.submit(post, server, {"dataset": "docs", "documents": ["one"]})
        wait_for(lambda: admission.parked.count == 1)
        (flow,) = admission.parked.flows
        assert (flow.priority, flow.client.name) == ("bulk", "127.0.0.1")
        encoder.gate.set()
        response = answer.result(20)
    assert response.status_code == 200, response.text
    assert response.headers["x-priority"] == "bulk"
    (row,) = longbow.store.live("docs").drop_columns(["timestamp"]).to_pylist()
    np.testing.assert_allclose(row["vector"], expected("one") / np.linalg.norm(expected("one")), rtol=1e-6)


def test_the_name_of_the_model_is_checked(serving: Server, longbow: LongbowDouble) -> None:
    answer = post(serving, {"dataset": "docs", "documents": ["a"], "model": "another"})
    assert answer.status_code == 404
    assert longbow.store.datasets == {}


def test_many_datasets_hold_a_bounded_number_of_threads(serving: Server, longbow: LongbowDouble) -> None:
    def sinks() -> int:
        return threading.active_count()

    counts = []
    for number in range(80):
        assert post(serving, {"dataset": f"set {number}", "documents": ["one"]}).status_code == 200
        counts.append(sinks())
    assert all(longbow.store.ids(f"set {number}") for number in range(80))
    wait_for(lambda: sinks() <= counts[MAX_CHANNELS - 1] + 8)
    assert post(serving, {"dataset": "set 0", "documents": ["two"]}).status_code == 200  # a closed stream opens again
    assert len(longbow.store.ids("set 0")) == 2


def test_a_key_writes_its_datasets_alone(longbow: LongbowDouble, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ann", datasets=("hers",))
    options = ServerOptions(
        http="127.0.0.1:0", flight="127.0.0.1:0", longbow=longbow.url, keys=str(tmp_path / "keys"), longbow_timeout=3.0
    )
    bearer = f"Bearer {key}"
    with Server(UnitLengths(), options) as server:
        for dataset, status in (("hers", 200), ("other", 403)):
            body = {"dataset": dataset, "documents": ["one"]}
            url = f"{server.addresses.http}/v1/ingest"
            assert httpx.post(url, json=body, headers={"authorization": bearer}, timeout=20).status_code == status
        table = pa.table({"id": [1], "text": ["a"]})
        with (
            fl.connect(server.addresses.flight) as client,
            pytest.raises(fl.FlightUnauthorizedError, match="dataset 'other'"),
        ):
            call = fl.FlightCallOptions(headers=[(b"authorization", bearer.encode())])
            writer, _ = client.do_put(fl.FlightDescriptor.for_path("longbow", "other"), table.schema, call)
            writer.write_table(table)
            writer.close()
    assert not longbow.store.ids("other")
