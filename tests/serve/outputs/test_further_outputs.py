"""BGE-M3's outputs on every API that has a place for them, in one process and through fronts."""

from __future__ import annotations

import asyncio
import base64
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pyarrow as pa
import pyarrow.flight as fl
import pyarrow.parquet as pq
import pytest

from fletcher.runtime.commandline.console import run
from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve import AsyncEngine
from fletcher.serve.commands.cli import app
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.price import price_of
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...convert.heads.bge_m3 import TEXTS, WIDTH, Reference
from ..fronts.channel.pair import open_engine, open_front

ATOL = 2e-6
COHERE = {"texts": ["a"], "input_type": "search_query"}


@pytest.fixture(scope="module")
def server(bge_m3_artifact: Path, tiny_artifact: Path) -> Iterator[Server]:
    """A server of BGE-M3, and of an embedder before it that has vectors alone."""
    specs = [
        ModelSpec(path=str(path), name=name, provider="mlas", cache=0)
        for name, path in (("tiny", tiny_artifact), ("m3", bge_m3_artifact))
    ]
    with Server(specs, ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(server.addresses.http), timeout=60) as connected:
        yield connected


def check_dense(rows: Any, reference: list[Reference]) -> None:
    np.testing.assert_allclose(np.asarray(rows, np.float32), [right.dense for right in reference], rtol=0, atol=ATOL)


def check_sparse(rows: Any, reference: list[Reference], *, value: str = "value") -> None:
    assert len(rows) == len(reference)
    for row, right in zip(rows, reference, strict=True):
        found = {item["index"]: item[value] for item in row}
        assert found.keys() == right.weights.keys()
        for token, weight in found.items():
            assert weight == pytest.approx(right.weights[token], abs=ATOL)


def check_tokens(rows: Any, reference: list[Reference]) -> None:
    assert len(rows) == len(reference)
    for row, right in zip(rows, reference, strict=True):
        np.testing.assert_allclose(np.asarray(row, np.float32), right.tokens, rtol=0, atol=ATOL)


def test_routes_of_tei_give_each_output(client: httpx.Client, bge_m3_reference: list[Reference]) -> None:
    body = {"inputs": TEXTS, "model": "m3"}
    check_dense(client.post("/embed", json=body).json(), bge_m3_reference)
    check_sparse(client.post("/embed_sparse", json=body).json(), bge_m3_reference)
    check_tokens(client.post("/embed_all", json=body).json(), bge_m3_reference)
    # Without a name, the first model that has sparse vectors answers.
    check_sparse(client.post("/embed_sparse", json={"inputs": TEXTS}).json(), bge_m3_reference)
    refused = client.post("/embed_sparse", json=body | {"model": "tiny"})
    assert refused.status_code == 400 and "sparse" in refused.text


@pytest.mark.parametrize("include", ["sparse", "token_vectors", "all"])
@pytest.mark.parametrize("form", ["float", "base64"])
def test_openais_route_includes_further_outputs(
    client: httpx.Client, bge_m3_reference: list[Reference], include: str, form: str
) -> None:
    body = {"input": TEXTS, "model": "m3", "include": include, "encoding_format": form}
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200
    items = answer.json()["data"]
    assert [item["index"] for item in items] == list(range(len(TEXTS)))

    def vector(value: Any) -> Any:
        return value if form == "float" else np.frombuffer(base64.b64decode(value), "<f4")

    check_dense([vector(item["embedding"]) for item in items], bge_m3_reference)
    if include in ("sparse", "all"):
        check_sparse([item["sparse"] for item in items], bge_m3_reference)
    if include in ("token_vectors", "all"):
        check_tokens([[vector(row) for row in item["token_vectors"]] for item in items], bge_m3_reference)
    assert [set(item) & {"sparse", "token_vectors"} for item in items] == [
        {"sparse", "token_vectors"} if include == "all" else {include}
    ] * len(TEXTS)
    space = client.post("/v1/embeddings", json={"input": "a", "model": "m3"}).json()["space"]
    assert answer.json()["space"].startswith(f"{space}.") and answer.headers["x-space"] == answer.json()["space"]


def test_the_client_of_openai_reads_an_answer_with_further_outputs(
    server: Server, bge_m3_reference: list[Reference]
) -> None:
    with openai.OpenAI(base_url=f"{server.addresses.http}/v1", api_key="unused", max_retries=0) as connected:
        answer = connected.embeddings.create(model="m3", input=list(TEXTS), extra_body={"include": "all"})
    check_dense([item.embedding for item in answer.data], bge_m3_reference)
    check_sparse([item.model_extra["sparse"] for item in answer.data if item.model_extra], bge_m3_reference)


@pytest.mark.parametrize(
    ("path", "body", "headers", "field"),
    [
        ("/v1/embeddings", {"input": "a", "model": "tiny", "include": "sparse"}, {}, "sparse"),
        ("/v1/embeddings", {"input": "a", "model": "m3", "include": "dense"}, {}, "include"),
        ("/v1/embeddings", {"input": "a", "model": "m3", "include": "all", "overflow": "windows"}, {}, "overflow"),
        ("/v1/embeddings", {"input": "a", "model": "m3", "include": "all", "encoding_format": "bytes"}, {}, "include"),
        (
            "/v1/embeddings",
            {"input": "a", "model": "m3", "include": "all"},
            {"accept": "application/x-ndjson"},
            "include",
        ),
        (
            "/v2/embed",
            {"texts": ["a"], "model": "tiny", "input_type": "search_query", "embedding_types": ["sparse"]},
            {},
            "sparse",
        ),
    ],
)
def test_requests_without_such_an_output_are_refused(
    client: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str], field: str
) -> None:
    refused = client.post(path, json=body, headers=headers)
    assert refused.status_code == 400 and field in refused.text, refused.text


@pytest.mark.parametrize("version", ["1", "2"])
def test_coheres_routes_have_types_for_further_outputs(
    client: httpx.Client, bge_m3_reference: list[Reference], version: str
) -> None:
    body = {"texts": TEXTS, "model": "m3", "input_type": "search_document"}
    kinds = ["float", "sparse", "ubinary", "token_vectors"]
    answer = client.post(f"/v{version}/embed", json=body | {"embedding_types": kinds}).json()["embeddings"]
    check_dense(answer["float"], bge_m3_reference)
    check_sparse(answer["sparse"], bge_m3_reference)
    check_tokens(answer["token_vectors"], bge_m3_reference)
    assert answer["ubinary"] == np.packbits(np.array(answer["float"]) > 0, axis=1).tolist()
    alone = client.post(f"/v{version}/embed", json=body | {"embedding_types": ["sparse"]}).json()["embeddings"]
    assert set(alone) == {"sparse"}
    check_sparse(alone["sparse"], bge_m3_reference)


def check_table(table: Any, reference: list[Reference]) -> None:
    assert table.schema.field("sparse").type == pa.list_(
        pa.field(
            "item",
            pa.struct(
                [
                    pa.field("index", pa.int32(), nullable=table.schema.field("vector").nullable),
                    pa.field("weight", pa.float32(), nullable=table.schema.field("vector").nullable),
                ]
            ),
            nullable=table.schema.field("vector").nullable,
        )
    )
    assert table.schema.field("token_vectors").type.value_type.list_size == WIDTH
    check_dense(table["vector"].to_pylist(), reference)
    check_sparse(table["sparse"].to_pylist(), reference, value="weight")
    check_tokens(table["token_vectors"].to_pylist(), reference)


def test_arrow_streams_get_further_columns(client: httpx.Client, bge_m3_reference: list[Reference]) -> None:
    batch = pa.RecordBatch.from_pydict({"text": TEXTS, "number": list(range(len(TEXTS)))})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch.slice(0, 3))
        writer.write_batch(batch.slice(3))
    answer = client.post("/encode/arrow?model=m3&include=all", content=sink.getvalue())
    assert answer.status_code == 200, answer.text
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table["number"].to_pylist() == list(range(len(TEXTS)))
    check_table(table, bge_m3_reference)
    refused = client.post("/encode?include=all", content=b"\x80")
    assert refused.status_code == 400 and "include" in refused.text


def test_flight_gives_further_columns(server: Server, bge_m3_reference: list[Reference]) -> None:
    descriptor = fl.FlightDescriptor.for_command(b'{"model": "m3", "include": "all"}')
    batch = pa.RecordBatch.from_pydict({"text": TEXTS})
    with fl.connect(str(server.addresses.flight)) as flight:
        promised = flight.get_schema(descriptor).schema
        writer, reader = flight.do_exchange(descriptor)
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch.slice(0, 2))
            writer.write_batch(batch.slice(2))
            writer.done_writing()
            table = reader.read_all()
        assert table.schema.equals(promised)
        check_table(table, bge_m3_reference)
        ticket = fl.Ticket(
            b'{"texts": ["w1", "w2 w3"], "include": "sparse"}'
        )  # the first model that has sparse vectors
        got = flight.do_get(ticket).read_all()
        assert got.column_names == ["text", "vector", "sparse"]
        with pytest.raises(pa.ArrowInvalid, match="needs sparse"):
            flight.get_schema(fl.FlightDescriptor.for_command(b'{"model": "tiny", "include": "sparse"}'))


def embed(command: list[str], *, exit_code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        run(app, command)
    assert ended.value.code == exit_code


def test_files_get_further_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bge_m3_artifact: Path, bge_m3_reference: list[Reference]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # `run` replaces it
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "texts.parquet")
    command = ["embed", str(bge_m3_artifact), "-i", str(tmp_path / "texts.parquet"), "--provider", "mlas"]
    for suffix in ("parquet", "arrow"):
        output = tmp_path / f"vectors.{suffix}"
        embed([*command, "-o", str(output), "--include", "all", "--chunk-size", "3"], exit_code=0)
        table = pq.read_table(output) if suffix == "parquet" else pa.ipc.open_file(output).read_all()
        check_table(table, bge_m3_reference)
    embed([*command, "-o", str(tmp_path / "v.npy"), "--include", "sparse"], exit_code=1)
    assert not (tmp_path / "v.npy").exists()


def test_models_say_what_a_request_can_include(client: httpx.Client) -> None:
    tiny, whole = client.get("/v1/models").json()["data"]
    assert whole["output"] == "vectors" and whole["includes"] == ["sparse", "token_vectors"]
    assert whole["token_dimension"] == WIDTH
    assert "includes" not in tiny and "token_dimension" not in tiny


def test_a_front_sends_one_request_for_several_outputs(
    tmp_path_factory: pytest.TempPathFactory, bge_m3_artifact: Path, bge_m3_reference: list[Reference]
) -> None:
    """Rows and values of several requests share a message, whatever their outputs."""
    path = tmp_path_factory.mktemp("c") / "rows"
    spec = ModelSpec(path=str(bge_m3_artifact), name="m3", provider="mlas", cache=0)
    every = ("vectors", "sparse", "token_vectors")
    with open_engine([spec], path), open_front(path) as front:
        front.wait_for_catalog()
        outputs: list[Any] = [every, ("vectors", "sparse"), "sparse", "token_vectors", "vectors", every]
        futures = [
            front.models.submit_blocking("m3", EmbedRequest(Texts(TEXTS), EmbedOptions(), output))[1]
            for output in outputs
        ]
        first, second, sparse, tokens, dense, last = (future.result(30) for future in futures)
    for answer in (first, last):
        check_dense(answer.vectors.vectors, bge_m3_reference)
        assert [right.weights.keys() for right in bge_m3_reference] == [
            set(part.tolist()) for part in np.split(answer.sparse.indices, answer.sparse.offsets[1:-1])
        ]
        check_tokens(np.split(answer.token_vectors.vectors, answer.token_vectors.offsets[1:-1]), bge_m3_reference)
    np.testing.assert_allclose(second.sparse.values, sparse.values, rtol=0, atol=1e-6)
    np.testing.assert_allclose(first.token_vectors.vectors, tokens.vectors, rtol=0, atol=1e-6)
    np.testing.assert_allclose(second.vectors.vectors, dense.vectors, rtol=0, atol=1e-6)


def test_the_asynchronous_engine_gives_several_outputs(
    bge_m3_artifact: Path, bge_m3_reference: list[Reference]
) -> None:
    async def ask() -> None:
        async with AsyncEngine([ModelSpec(path=str(bge_m3_artifact), name="m3", provider="mlas", cache=0)]) as engine:
            found = await engine.embed_outputs(list(TEXTS))
            assert found.vectors is not None and found.sparse is not None and found.token_vectors is not None
            check_dense(found.vectors.vectors, bge_m3_reference)
            sparse = await engine.embed_sparse(list(TEXTS))
            np.testing.assert_allclose(sparse.values, found.sparse.values, rtol=0, atol=1e-6)
            with pytest.raises(InputError, match="at least two"):
                await engine.embed_outputs("a", ("sparse",))

    asyncio.run(ask())


def test_prices_grow_with_the_outputs(server: Server) -> None:
    info = server.models.pick("m3").info
    texts = Texts(("w1 " * 100,) * 10)
    prices = {
        output: price_of(EmbedRequest(texts, EmbedOptions(), output), info)
        for output in ("vectors", "sparse", "token_vectors", ("vectors", "sparse", "token_vectors"))
    }
    tokens = prices["vectors"].tokens
    assert {price.tokens for price in prices.values()} == {tokens}  # one pass, whatever is asked for
    assert prices["vectors"].memory == 4 * 10 * info.dimension + 8 * tokens
    assert prices["sparse"].memory == 4 * 3 * tokens + 8 * tokens
    assert prices["token_vectors"].memory == 4 * WIDTH * tokens + 8 * tokens
    every = prices["vectors", "sparse", "token_vectors"].memory
    assert every > sum(prices[name].memory - 8 * tokens for name in ("vectors", "sparse", "token_vectors"))
