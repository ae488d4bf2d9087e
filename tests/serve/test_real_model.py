"""The real all-MiniLM-L6-v2 over HTTP and Flight, compared with the encoder. Other tests check the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.runtime import Encoder
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

TEXTS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "",
    "   ",
    "nul\0bell\x07",
    "🏹 ünïcode",
    "a long text " * 300,
]


@pytest.fixture(scope="module")
def encoder(minilm_artifact: Path) -> Iterator[Encoder]:
    with Encoder.load(minilm_artifact, workers=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def real_server(encoder: Encoder) -> Iterator[Server]:
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10)) as running:
        yield running


@pytest.fixture(scope="module")
def client(real_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{real_server.addresses.http}/v1", api_key="unused", max_retries=0, timeout=60
    ) as connected:
        yield connected


def test_http_returns_the_vectors_of_the_encoder(client: openai.OpenAI, encoder: Encoder) -> None:
    answer = client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS)
    direct = encoder.embed(TEXTS)
    np.testing.assert_allclose([item.embedding for item in answer.data], direct.vectors, rtol=0, atol=1e-6)
    assert [item.model_extra["tokens_seen"] for item in answer.data if item.model_extra] == direct.tokens.tolist()
    assert [item.model_extra["tokens_dropped"] for item in answer.data if item.model_extra] == direct.dropped.tolist()
    assert direct.dropped[-1] > 0


def test_a_text_alone_at_a_busy_server_has_the_same_vector(client: openai.OpenAI, encoder: Encoder) -> None:
    texts = [f"{text} {index}" for index in range(4) for text in TEXTS]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: client.embeddings.create(model="all-MiniLM-L6-v2", input=text), texts))
    vectors = np.array([answer.data[0].embedding for answer in answers])
    np.testing.assert_allclose(vectors, encoder.embed(texts).vectors, rtol=0, atol=1e-6)


def test_related_sentences_are_nearer_than_unrelated_ones(client: openai.OpenAI) -> None:
    eating, bread, baby = (
        np.array(item.embedding) for item in client.embeddings.create(model="all-MiniLM-L6-v2", input=TEXTS[:3]).data
    )
    assert eating @ bread > 0.7 > 0.2 > eating @ baby


def test_flight_returns_the_vectors_of_the_encoder(real_server: Server, encoder: Encoder) -> None:
    with fl.connect(str(real_server.addresses.flight)) as flight:
        writer, reader = flight.do_exchange(fl.FlightDescriptor.for_path("embed"))
        with writer:
            batch = pa.RecordBatch.from_pydict({"text": TEXTS})
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            table = reader.read_all()
    np.testing.assert_allclose(table["vector"].to_pylist(), encoder.embed(TEXTS).vectors, rtol=0, atol=1e-6)
    assert table.schema.metadata[b"fletcher.digest"].decode() == encoder.artifact.digest
    assert table.schema.metadata[b"fletcher.normalization"] == b"l2"


def test_the_server_is_ready_and_embeds_a_text_of_ten_megabytes(real_server: Server, client: openai.OpenAI) -> None:
    assert httpx.get(f"{real_server.addresses.http}/ready").status_code == 200
    answer = client.embeddings.create(model="all-MiniLM-L6-v2", input="word " * 2_000_000)
    assert answer.usage.prompt_tokens == 256
    assert httpx.get(f"{real_server.addresses.http}/ready").status_code == 200
