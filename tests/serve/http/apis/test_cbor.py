"""Binary routes and streams: CBOR with cbor2, Arrow with pyarrow, and NDJSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import cbor2
import httpx
import numpy as np
import pyarrow as pa
import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import POISON, FakeEncoder, expected


@pytest.fixture(scope="module")
def http_url() -> Iterator[str]:
    """Return the URL of one server for all tests of this file."""
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        yield str(server.addresses.http)


@pytest.fixture
def http(http_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=http_url, timeout=10) as client:
        yield client


def test_cbor_in_cbor_out(http: httpx.Client) -> None:
    response = http.post("/encode", content=cbor2.dumps(["ab", "x" * 20]))
    assert response.headers["content-type"] == "application/cbor"
    assert cbor2.loads(response.content) == [expected("ab").tolist(), expected("x" * 20).tolist()]
    assert response.headers["x-tokens-dropped"] == "0,6"
    assert cbor2.loads(http.post("/encode", content=cbor2.dumps([])).content) == []


@pytest.mark.parametrize("dtype", ["float16", "int8", "ubinary"])
def test_cbor_in_other_types(http: httpx.Client, dtype: str) -> None:
    (row,) = cbor2.loads(http.post(f"/encode?dtype={dtype}&input_type=query", content=cbor2.dumps(["ab"])).content)
    vector = expected("ab", "query: ")
    reference = {
        "float16": vector.astype(np.float16).tolist(),
        "int8": np.rint(vector / (np.abs(vector).max() / 127)).astype(int).tolist(),
        "ubinary": np.packbits(vector > 0).tobytes(),
    }
    assert row == reference[dtype]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("", b""),
        ("", b"\xff"),
        ("", b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("", b"\x81" * 100_000),
        ("", cbor2.dumps({"a": 1})),
        ("", cbor2.dumps(["a", 3])),
        ("", cbor2.dumps([b"a"])),
        ("?frobnicate=1", cbor2.dumps(["a"])),
        ("?dimensions=x", cbor2.dumps(["a"])),
        ("?dimensions=4&dimensions=4", cbor2.dumps(["a"])),
        ("?dtype=int4", cbor2.dumps(["a"])),
        ("?overflow=late", cbor2.dumps(["a"])),
    ],
)
def test_bad_cbor_is_a_json_error(http: httpx.Client, query: str, body: bytes) -> None:
    response = http.post(f"/encode{query}", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def arrow_bytes(table: pa.Table, **options: int) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, **options)
    return bytes(sink.getvalue())


def test_arrow_returns_vectors_and_all_other_columns(http: httpx.Client) -> None:
    table = pa.table({"text": ["ab", "cd", "ef"], "row": [1, 2, 3]})
    response = http.post("/encode/arrow", content=arrow_bytes(table, max_chunksize=2))
    answer_table = pa.ipc.open_stream(response.content).read_all()
    assert answer_table["row"].to_pylist() == [1, 2, 3]
    assert answer_table["vector"].to_pylist() == [expected(text).tolist() for text in ("ab", "cd", "ef")]
    assert answer_table.schema.metadata[b"fletcher.digest"] == b"c0ffee"


def test_arrow_has_the_token_counts_of_each_text(http: httpx.Client) -> None:
    table = pa.table({"text": ["ab", "x" * 20]})
    answer = http.post("/encode/arrow", content=arrow_bytes(table))
    _, metadata = pa.ipc.open_stream(answer.content).read_next_batch_with_custom_metadata()
    assert metadata.to_dict() == {b"fletcher.tokens_seen": b"4,16", b"fletcher.tokens_dropped": b"0,6"}


def test_an_empty_stream_has_a_schema(http: httpx.Client) -> None:
    table = pa.table({"text": pa.array([], pa.string())})
    answer = pa.ipc.open_stream(http.post("/encode/arrow?dimensions=4", content=arrow_bytes(table)).content).read_all()
    assert answer.num_rows == 0
    assert answer.schema.field("vector").type.list_size == 4


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ARROW1",
        arrow_bytes(pa.table({"text": ["a", None]})),
        arrow_bytes(pa.table({"number": [1]})),
        arrow_bytes(pa.table({"text": ["abc" * 1000]}))[:-500],
    ],
)
def test_bad_arrow_is_a_json_error(http: httpx.Client, body: bytes) -> None:
    response = http.post("/encode/arrow", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


STREAMED = {"accept": "application/x-ndjson"}


def test_ndjson_has_one_line_for_each_text_in_order(http: httpx.Client) -> None:
    texts = [f"text {index}" for index in range(3000)]
    body = {"model": "fake", "input": texts}
    with http.stream("POST", "/v1/embeddings", json=body, headers=STREAMED) as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        *lines, last = [json.loads(line) for line in response.iter_lines()]
    assert [line["index"] for line in lines] == list(range(3000))
    for text, line in zip(texts, lines, strict=True):
        assert line["embedding"] == expected(text).tolist()
    tokens = sum(min(len(text) + 2, 16) for text in texts)
    assert last["usage"]["prompt_tokens"] == tokens
    assert last["model"] == "fake-model"


def test_ndjson_of_tei(http: httpx.Client) -> None:
    body = {"inputs": ["ab", "cd"], "normalize": False}
    *lines, _ = [json.loads(line) for line in http.post("/embed", json=body, headers=STREAMED).text.splitlines()]
    assert [line["embedding"] for line in lines] == [expected("ab").tolist(), expected("cd").tolist()]


def test_errors_of_ndjson_are_a_status_or_a_line(http: httpx.Client) -> None:
    first = http.post("/v1/embeddings", json={"model": "fake", "input": [POISON]}, headers=STREAMED)
    assert first.status_code == 500
    body = {"model": "fake", "input": ["a"] * 100 + [POISON]}
    later = http.post("/v1/embeddings", json=body, headers=STREAMED)
    assert later.status_code == 200
    assert json.loads(later.text.splitlines()[-1])["error"]["code"] == "model_failed"
    many = http.post("/v1/embeddings", json={"model": "fake", "input": ["a"] * 70_000}, headers=STREAMED)
    assert many.status_code == 400
