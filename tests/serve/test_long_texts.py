"""Long texts and their chunks over HTTP, Flight and files, compared with the encoder. Other tests check the encoder."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pyarrow.parquet as pq
import pytest

from fletcher.convert.export.export import export
from fletcher.runtime import Embeddings, Encoder
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.files.embed_file import embed_file
from fletcher.serve.files.texts import open_texts
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..convert.tiny import save_embedder

LONG = "some words of a document that has many more of them than the model takes at a time " * 4
TEXTS = ["short", LONG, "", LONG[::-1]]

#: Options for requests, for Flight's commands and for Python.
OPTIONS: list[dict[str, Any]] = [
    {"overflow": "windows"},
    {"overflow": "windows", "window_tokens": 12, "overlap_tokens": 3, "dtype": "int8"},
    {"overflow": "late", "chunk_tokens": 5},
    {"overflow": "late", "chunk_tokens": 5, "dtype": "float16"},
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    folder = tmp_path_factory.mktemp("long")
    export(str(save_embedder(folder / "checkpoint")), folder / "artifact")
    with Encoder.load(folder / "artifact", provider="mlas", workers=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def server(encoder: Encoder) -> Iterator[Server]:
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10)) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(server.addresses.http), timeout=30) as client:
        yield client


def assert_same(items: Sequence[dict[str, Any]], expected: Embeddings) -> None:
    """Compare items with the encoder. An item has `vector`, `scale`, and `chunks` of {start, end, vector, scale}."""
    assert len(items) == len(expected)
    chunks = expected.chunks
    assert (
        chunks is not None and np.diff(chunks.offsets).max() > 3
    )  # without several chunks the comparison would be empty
    step = {"float32": 1e-6, "float16": 1e-3, "int8": 1}[
        expected.vectors.dtype.name
    ]  # a value between two codes may be rounded to either
    for index, item in enumerate(items):
        np.testing.assert_allclose(item["vector"], expected.vectors[index].astype(np.float32), rtol=0, atol=step)
        rows = range(*chunks.offsets[index : index + 2].tolist())
        assert [(part["start"], part["end"]) for part in item["chunks"]] == [tuple(chunks.spans[row]) for row in rows]
        for part, row in zip(item["chunks"], rows, strict=True):
            np.testing.assert_allclose(part["vector"], chunks.vectors[row].astype(np.float32), rtol=0, atol=step)
            if chunks.scales is not None:
                assert part["scale"] == pytest.approx(chunks.scales[row], rel=1e-4)
        if expected.scales is not None:
            assert item["scale"] == pytest.approx(expected.scales[index], rel=1e-4)


def named(item: dict[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """Return an item from JSON. If there is a type, its vectors are base64."""

    def vector(value: Any) -> Any:
        return value if dtype is None else np.frombuffer(base64.b64decode(value), np.dtype(dtype).newbyteorder("<"))

    parts = [part | {"vector": vector(part["embedding"])} for part in item["chunks"]]
    return item | {"vector": vector(item["embedding"]), "chunks": parts}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_http(http: httpx.Client, encoder: Encoder, options: dict[str, Any]) -> None:
    expected = encoder.embed(TEXTS, **options)
    body = {"model": encoder.card.name, "input": TEXTS} | options
    assert_same([named(item) for item in http.post("/v1/embeddings", json=body).json()["data"]], expected)
    items = http.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"]
    assert_same([named(item, options.get("dtype", "float32")) for item in items], expected)
    lines = http.post("/v1/embeddings", json=body, headers={"accept": "application/x-ndjson"}).text.splitlines()
    assert_same([named(json.loads(line)) for line in lines[:-1]], expected)
    items = http.post("/embed", json={"inputs": TEXTS, "detail": True} | options).json()
    assert_same([named(item) for item in items], expected)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_flight(server: Server, encoder: Encoder, options: dict[str, Any]) -> None:
    command = fl.FlightDescriptor.for_command(json.dumps(options).encode())
    with fl.connect(str(server.addresses.flight)) as client:
        writer, reader = client.do_exchange(command)
        with writer:
            batch = pa.RecordBatch.from_pydict({"text": TEXTS})
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            assert_same(reader.read_all().to_pylist(), encoder.embed(TEXTS, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_files(encoder: Encoder, options: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    with open_texts(str(source), text_format=None, column="text", chunk_texts=2) as texts:
        embed_file(encoder, texts, tmp_path / "v.parquet", options=EmbedOptions(**options), force=False)
    assert_same(pq.read_table(tmp_path / "v.parquet").to_pylist(), encoder.embed(TEXTS, **options))
