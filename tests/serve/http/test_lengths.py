"""Texts that are too long: no route cuts them silently, and a server or a request can refuse them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cbor2
import httpx
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.runtime.errors import OptionError
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

LONG = "a text that is longer than the model takes"
SHORT = "ab"

#: Path and body of each route that gives vectors of texts.
ROUTES: dict[str, Any] = {
    "/v1/embeddings": lambda texts: {"json": {"model": "fake-model", "input": texts}},
    "/embed": lambda texts: {"json": {"inputs": texts}},
    "/v2/embed": lambda texts: {"json": {"model": "fake-model", "input_type": "raw", "texts": texts}},
    "/similarity": lambda texts: {"json": {"inputs": {"source_sentence": SHORT, "sentences": texts}}},
    "/encode": lambda texts: {"content": cbor2.dumps(texts)},
    "/encode/arrow": lambda texts: {"content": arrow(texts)},
}
#: Routes of text-embeddings-inference, whose status for a long text is 413.
TEI = ("/embed", "/similarity")
routes = pytest.mark.parametrize("route", ROUTES)


def arrow(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pydict({"text": texts})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


@contextmanager
def serving(**options: Any) -> Iterator[httpx.Client]:
    chosen = ServerOptions(**{"http": "127.0.0.1:0", "flight": "off"} | options)
    with Server(FakeEncoder(), chosen) as server, httpx.Client(base_url=server.addresses.http or "") as http:
        yield http


@routes
def test_an_answer_says_how_many_texts_were_cut(route: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as http, caplog.at_level(logging.INFO, "fletcher.serve.http"):
        answer = http.post(route, **ROUTES[route]([SHORT, LONG, LONG]))
        assert (answer.status_code, answer.headers["x-truncated"]) == (200, "2")
        logged = [record for record in caplog.records if record.message == "texts were truncated"]
        assert [record.fields["texts"] for record in logged] == [2]  # type: ignore[attr-defined]
        assert "x-truncated" not in http.post(route, **ROUTES[route]([SHORT])).headers


@routes
@pytest.mark.parametrize("by", ["server", "request"])
def test_a_long_text_can_be_an_error(route: str, by: str) -> None:
    headers = {"x-on-truncate": "refuse"} if by == "request" else {}
    with serving(on_truncate="refuse" if by == "server" else "report") as http:
        refused = http.post(route, **ROUTES[route]([SHORT, LONG]), headers=headers)
        assert refused.status_code == (413 if route in TEI else 400), refused.text
        assert "has 44 tokens" in refused.text
        assert http.post(route, **ROUTES[route]([SHORT, SHORT]), headers=headers).status_code == 200


def test_truncation_can_be_allowed_without_a_report() -> None:
    with serving(on_truncate="allow") as http:
        body = ROUTES["/v1/embeddings"]([LONG])
        assert "x-truncated" not in http.post("/v1/embeddings", **body).headers
        assert http.post("/v1/embeddings", **body, headers={"x-on-truncate": "report"}).headers["x-truncated"] == "1"
        refused = http.post("/v1/embeddings", **body, headers={"x-on-truncate": "always"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "X-On-Truncate")


def test_a_request_cannot_weaken_a_server_that_refuses() -> None:
    with serving(on_truncate="refuse") as http:
        body = {"model": "fake-model", "input": LONG, "overflow": "truncate"}
        assert http.post("/v1/embeddings", json=body, headers={"x-on-truncate": "allow"}).status_code == 400
        assert http.post("/embed", json={"inputs": LONG, "truncate": True}).status_code == 413
        ids = {"model": "fake-model", "input": [[1, *[20] * 40, 2]]}
        assert http.post("/v1/embeddings", json=ids).status_code == 400


def test_a_stream_of_lines_ends_with_the_error() -> None:
    with serving() as http:
        texts = [SHORT] * 64 + [LONG]
        headers = {"accept": "application/x-ndjson", "x-on-truncate": "refuse"}
        answer = http.post("/v1/embeddings", **ROUTES["/v1/embeddings"](texts), headers=headers)
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert len(lines) == 65 and "has 44 tokens" in lines[-1]["error"]["message"]
        first = http.post("/v1/embeddings", **ROUTES["/v1/embeddings"]([LONG]), headers=headers)
        assert first.status_code == 400


def test_a_server_that_refuses_does_so_over_flight() -> None:
    options = ServerOptions(http="off", flight="127.0.0.1:0", on_truncate="refuse")
    with Server(FakeEncoder(), options) as server, fl.connect(server.addresses.flight) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
        batch = pa.RecordBatch.from_pydict({"text": [SHORT, LONG]})
        with pytest.raises(pa.ArrowInvalid, match="has 44 tokens"), writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            reader.read_all()


def test_fronts_refuse_and_report_too(tiny_artifact: Path) -> None:
    text = "many words " * 200
    body = {"model": "tiny", "input": text}
    for policy, status in (("report", 200), ("refuse", 400)):
        options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=1, on_truncate=policy)  # type: ignore[arg-type]
        with Supervisor([ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas")], options) as server:
            answer = httpx.post(f"{server.addresses.http}/v1/embeddings", json=body, timeout=30)
            assert answer.status_code == status
            assert answer.headers.get("x-truncated") == ("1" if status == 200 else None)


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match="on_truncate is 'cut'"):
        ServerOptions(on_truncate="cut")  # type: ignore[arg-type]
