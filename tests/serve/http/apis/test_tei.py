"""Routes of text-embeddings-inference over a real socket, and with the client of HuggingFace Hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from fletcher.serve.http.apis.tei.errors import TeiError
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import POISON, FakeEncoder, expected, request_for, vector_of


@pytest.fixture(scope="module")
def http_url() -> Iterator[str]:
    """Return the URL of one server for all tests of this file."""
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        yield str(server.addresses.http)


@pytest.fixture
def http(http_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=http_url, timeout=10) as client:
        yield client


def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    normalized: np.ndarray[Any, Any] = vector / np.linalg.norm(vector)
    return normalized


def test_the_client_of_the_hub_gets_normalized_vectors(http_url: str) -> None:
    client = InferenceClient(http_url)
    vectors = client.feature_extraction("ab", truncate=True, truncation_direction="right")
    np.testing.assert_allclose(vectors, [unit(expected("ab"))], rtol=1e-6)
    plain = client.feature_extraction("ab", normalize=False, prompt_name="query")
    np.testing.assert_array_equal(plain, [expected("ab", "query: ")])


def test_the_client_of_the_hub_gets_similarities(http_url: str) -> None:
    similarities = InferenceClient().sentence_similarity(
        "ab", other_sentences=["ab", "cd"], model=f"{http_url}/similarity"
    )
    cosines = [1.0, float(unit(expected("ab")) @ unit(expected("cd")))]
    np.testing.assert_allclose(similarities, cosines, rtol=1e-6)


def test_headers_have_the_seen_and_dropped_tokens(http: httpx.Client) -> None:
    response = http.post("/embed", json={"inputs": ["ab", "x" * 20]})
    assert len(response.json()) == 2
    assert response.headers["x-tokens-seen"] == "4,16"
    assert response.headers["x-tokens-dropped"] == "0,6"
    assert response.headers["x-compute-tokens"] == "20"


def test_with_detail_the_body_has_the_token_counts(http: httpx.Client) -> None:
    body = {"inputs": "x" * 20, "detail": True, "dtype": "int8", "normalize": False}
    (item,) = http.post("/embed", json=body).json()
    assert (item["tokens_seen"], item["tokens_dropped"]) == (16, 6)
    assert item["scale"] == pytest.approx(np.abs(expected("x" * 20)).max() / 127)


def test_token_ids_dimensions_and_left_truncation(http: httpx.Client) -> None:
    ids = http.post("/embed", json={"inputs": [[5, 6, 7], [8]], "normalize": False}).json()
    assert ids == [vector_of([5, 6, 7]).tolist(), vector_of([8]).tolist()]
    one = http.post("/embed", json={"inputs": [5, 6, 7], "normalize": False, "dimensions": 4}).json()
    assert one == [vector_of([5, 6, 7])[:4].tolist()]


def test_tokenize_and_info(http: httpx.Client) -> None:
    (row,) = http.post("/tokenize", json={"inputs": "ab"}).json()
    assert [token["text"] for token in row] == ["a", "b"]
    assert [(token["start"], token["stop"]) for token in row] == [(0, 1), (1, 2)]
    info = http.get("/info").json()
    assert info["model_id"] == "fake-model"
    assert info["max_input_length"] == 16
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}


BAD: list[tuple[str, Any, int, str]] = [
    ("/embed", b"not json", 400, "Validation"),
    ("/embed", {"inputs": []}, 400, "Empty"),
    ("/embed", {"inputs": ["a"] * 513}, 413, "Validation"),
    ("/embed", {"inputs": 3}, 422, "Validation"),
    ("/embed", {"inputs": ["a", 3]}, 422, "Validation"),
    ("/embed", {"inputs": "a", "frobnicate": 1}, 422, "Validation"),
    ("/embed", {"inputs": "a", "model": "other"}, 404, "Validation"),
    ("/embed", {"inputs": POISON}, 424, "Backend"),
    ("/embed", {"inputs": "a", "prompt_name": "poem"}, 422, "Validation"),
    ("/embed", {"inputs": [500]}, 422, "Tokenizer"),
    ("/rerank", {"query": "a", "texts": []}, 400, "Empty"),
    ("/rerank", {"query": "a", "texts": ["b"]}, 404, "Validation"),
    ("/embed_sparse", {"inputs": "a"}, 404, "Validation"),
    ("/embed_all", {"inputs": "a"}, 400, "Tokenizer"),
    ("/similarity", {"inputs": {"source_sentence": "a"}}, 422, "Validation"),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty"),
]


@pytest.mark.parametrize(("path", "body", "status", "kind"), BAD)
def test_errors_have_the_shape_of_tei(http: httpx.Client, path: str, body: Any, status: int, kind: str) -> None:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    response = http.post(path, content=content)
    assert response.status_code == status
    error = msgspec.json.decode(response.content, type=TeiError)
    assert error.error_type == kind
    assert error.error


def test_the_limit_of_items_can_be_configured(fake_encoder: FakeEncoder) -> None:
    with (
        Server(fake_encoder, ServerOptions(http="127.0.0.1:0", flight="off", max_items=2)) as server,
        httpx.Client(base_url=str(server.addresses.http)) as http,
    ):
        assert http.post("/embed", json={"inputs": ["a", "b"]}).status_code == 200
        assert http.post("/embed", json={"inputs": ["a", "b", "c"]}).status_code == 413


def test_a_limit_of_tokens(fake_encoder: FakeEncoder) -> None:
    with (
        Server(fake_encoder, ServerOptions(http="127.0.0.1:0", flight="off", max_tokens=8)) as server,
        httpx.Client(base_url=str(server.addresses.http)) as http,
    ):
        assert http.post("/embed", json={"inputs": ["ab", "cd"]}).status_code == 200
        for inputs in (["ab", "cde"], [[5] * 9]):
            refused = http.post("/embed", json={"inputs": inputs})
            assert refused.status_code == 413
            assert "9 tokens" in refused.json()["error"]
        # A rejected request does not use the queue.
        assert http.post("/embed", json={"inputs": ["ab", "cd"]}).status_code == 200
        assert server.models.open_requests == 0


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/embed", {"inputs": "ef"}, "error"),
        ("/v2/embed", {"model": "fake", "input_type": "search_query", "texts": ["ef"]}, "message"),
        ("/encode", b"\x81bef", "error"),
    ],
)
def test_overload_is_429_with_retry_after_in_the_shape_of_each_api(path: str, body: Any, field: str) -> None:
    encoder = FakeEncoder(workers=1)
    encoder.gate.clear()
    with (
        Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off", queue_tokens=4)) as server,
        httpx.Client(base_url=str(server.addresses.http)) as http,
    ):
        under_way = server.engine.submit(request_for(["ab"]))
        while server.engine.admission.tokens:
            pass
        waiting = server.engine.submit(request_for(["cd"]))
        answer = http.post(path, content=body if isinstance(body, bytes) else msgspec.json.encode(body))
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()[field]
        encoder.gate.set()
        under_way.result(10)
        waiting.result(10)
