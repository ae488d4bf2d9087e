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
SAID: list[dict[str, Any]] = [
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


def assert_same(items: Sequence[dict[str, Any]], wanted: Embeddings) -> None:
    """Compare items with the encoder. An item has `vector`, `scale`, and `chunks` of {start, end, vector, scale}."""
    assert len(items) == len(wanted)
    chunks = wanted.chunks
    assert (
        chunks is not None and np.diff(chunks.offsets).max() > 3
    )  # without several chunks the comparison would be empty
    step = {"float32": 1e-6, "float16": 1e-3, "int8": 1}[
        wanted.vectors.dtype.name
    ]  # a value between two codes may be rounded to either
    for index, item in enumerate(items):
        np.testing.assert_allclose(item["vector"], wanted.vectors[index].astype(np.float32), rtol=0, atol=step)
        rows = range(*chunks.offsets[index : index + 2].tolist())
        assert [(part["start"], part["end"]) for part in item["chunks"]] == [tuple(chunks.spans[row]) for row in rows]
        for part, row in zip(item["chunks"], rows, strict=True):
            np.testing.assert_allclose(part["vector"], chunks.vectors[row].astype(np.float32), rtol=0, atol=step)
            if chunks.scales is not None:
                assert part["scale"] == pytest.approx(chunks.scales[row], rel=1e-4)
        if wanted.scales is not None:
            assert item["scale"] == pytest.approx(wanted.scales[index], rel=1e-4)


def named(item: dict[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """Return an item from JSON. If there is a type, its vectors are base64."""

    def vector(value: Any) -> Any:
        return value if dtype is None else np.frombuffer(base64.b64decode(value), np.dtype(dtype).newbyteorder("<"))

    parts = [part | {"vector": vector(part["embedding"])} for part in item["chunks"]]
    return item | {"vector": vector(item["embedding"]), "chunks": parts}


@pytest.mark.parametrize("said", SAID, ids=str)
def test_http(http: httpx.Client, encoder: Encoder, said: dict[str, Any]) -> None:
    wanted = encoder.embed(TEXTS, **said)
    body = {"model": encoder.card.name, "input": TEXTS} | said
    assert_same([named(item) for item in http.post("/v1/embeddings", json=body).json()["data"]], wanted)
    found = http.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"]
    assert_same([named(item, said.get("dtype", "float32")) for item in found], wanted)
    lines = http.post("/v1/embeddings", json=body, headers={"accept": "application/x-ndjson"}).text.splitlines()
    assert_same([named(json.loads(line)) for line in lines[:-1]], wanted)
    found = http.post("/embed", json={"inputs": TEXTS, "detail": True} | said).json()
    assert_same([named(item) for item in found], wanted)


@pytest.mark.parametrize("said", SAID, ids=str)
def test_flight(server: Server, encoder: Encoder, said: dict[str, Any]) -> None:
    command = fl.FlightDescriptor.for_command(json.dumps(said).encode())
    with fl.connect(str(server.addresses.flight)) as client:
        writer, reader = client.do_exchange(command)
        with writer:
            batch = pa.RecordBatch.from_pydict({"text": TEXTS})
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            assert_same(reader.read_all().to_pylist(), encoder.embed(TEXTS, **said))


@pytest.mark.parametrize("said", SAID, ids=str)
def test_files(encoder: Encoder, said: dict[str, Any], tmp_path: Path) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    with open_texts(str(source), text_format=None, column="text", chunk_texts=2) as texts:
        embed_file(encoder, texts, tmp_path / "v.parquet", options=EmbedOptions(**said), force=False)
    assert_same(pq.read_table(tmp_path / "v.parquet").to_pylist(), encoder.embed(TEXTS, **said))
