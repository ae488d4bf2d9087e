"""Cohere's route, with Cohere's client."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import cohere
import httpx
import msgspec
import numpy as np
import pytest
from cohere.core.api_error import ApiError

from fletcher.serve.http.apis.cohere.errors import CohereError
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import DIMENSION, SPACE, FakeEncoder, expected


@pytest.fixture(scope="module")
def http_url() -> Iterator[str]:
    """Return the URL of one server for all tests of this file."""
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        yield str(server.addresses.http)


@pytest.fixture
def client(http_url: str) -> Iterator[cohere.ClientV2]:
    with httpx.Client(timeout=10) as http:
        yield cohere.ClientV2(api_key="unused", base_url=http_url, httpx_client=http)


def test_every_type_of_vector(client: cohere.ClientV2) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    answer = client.embed(model="fake-model", input_type="search_query", texts=["ab"], embedding_types=kinds)
    vector = expected("ab", "query: ")
    embeddings = answer.embeddings
    assert embeddings.float_ == [vector.tolist()]
    codes = np.rint(vector / (np.abs(vector).max() / 127)).astype(int)
    bits = np.packbits(vector > 0).astype(int)
    assert embeddings.int8 == [codes.tolist()]
    assert embeddings.uint8 == [(codes + 128).tolist()]
    assert embeddings.ubinary == [bits.tolist()]
    assert embeddings.binary == [(bits - 128).tolist()]
    assert embeddings.base64 is not None
    assert np.frombuffer(base64.b64decode(embeddings.base64[0]), "<f4").tolist() == vector.tolist()
    assert answer.texts == ["ab"]
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.input_tokens == 11


def test_truncated_texts_and_shorter_vectors(client: cohere.ClientV2) -> None:
    answer = client.embed(
        model="fake", input_type="search_document", texts=["x" * 20], output_dimension=4, embedding_types=["float"]
    )
    assert answer.embeddings.float_ == [expected("x" * 20)[:4].tolist()]
    assert answer.meta is not None
    assert answer.meta.model_extra == {"tokens_seen": [16], "tokens_dropped": [6], "space": f"{SPACE.id}.4"}


def test_inputs_in_parts(client: cohere.ClientV2) -> None:
    parts = [{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    answer = client.embed(model="fake", input_type="search_document", inputs=parts, embedding_types=["float"])  # type: ignore[arg-type]
    assert answer.embeddings.float_ == [expected("ab").tolist()]
    assert len(answer.embeddings.float_[0]) == DIMENSION


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no", 400),
        ({"model": "fake", "input_type": "search_query"}, 400),
        ({"model": "fake", "input_type": "search_query", "texts": []}, 400),
        ({"model": "fake", "input_type": "search_query", "texts": ["a"] * 97}, 400),
        ({"model": "fake", "input_type": "image", "texts": ["a"]}, 400),
        ({"model": "fake", "input_type": "search_query", "texts": ["a"], "max_tokens": 4}, 400),
        ({"model": "fake", "input_type": "search_query", "texts": ["a"], "frobnicate": 4}, 400),
        ({"model": "other", "input_type": "search_query", "texts": ["a"]}, 404),
        ({"model": "fake", "input_type": "search_query", "texts": ["x" * 20], "output_dimension": 5}, 400),
    ],
)
def test_errors_have_the_shape_of_cohere(http_url: str, body: object, status: int) -> None:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    response = httpx.post(f"{http_url}/v2/embed", content=content)
    assert response.status_code == status
    error = msgspec.json.decode(response.content, type=CohereError)
    assert error.message
    assert error.id == response.headers["x-request-id"]


def test_the_client_raises_its_error_classes(client: cohere.ClientV2) -> None:
    with pytest.raises(cohere.NotFoundError):
        client.embed(model="other", input_type="search_query", texts=["a"])
    with pytest.raises(ApiError) as caught:
        client.embed(model="fake", input_type="poem", texts=["a"])
    assert caught.value.status_code == 400


# Version 1 ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def old_client(http_url: str) -> Iterator[cohere.Client]:
    with httpx.Client(timeout=10) as http:
        yield cohere.Client(api_key="unused", base_url=http_url, httpx_client=http)


def test_version_1_returns_a_list_of_vectors(old_client: cohere.Client) -> None:
    answer = old_client.embed(texts=["ab", "cd"], model="fake-model", input_type="search_query", truncate="END")
    assert answer.response_type == "embeddings_floats"
    assert answer.embeddings == [expected("ab", "query: ").tolist(), expected("cd", "query: ").tolist()]
    assert answer.texts == ["ab", "cd"]
    assert answer.meta is not None and answer.meta.api_version is not None
    assert answer.meta.api_version.version == "1"


def test_version_1_returns_vectors_by_type(old_client: cohere.Client) -> None:
    answer = old_client.embed(
        texts=["ab"], model="fake-model", input_type="search_document", embedding_types=["float"], batching=False
    )
    assert answer.response_type == "embeddings_by_type"
    assert answer.embeddings.float_ == [expected("ab").tolist()]


def test_version_1_needs_neither_a_model_nor_an_input_type(http_url: str) -> None:
    answer = httpx.post(f"{http_url}/v1/embed", json={"texts": ["ab"], "images": None}).json()
    assert answer["embeddings"] == [expected("ab").tolist()]


def test_version_1_refuses_images_by_name(old_client: cohere.Client) -> None:
    with pytest.raises(ApiError) as refused:
        old_client.embed(images=["data:image/png;base64,AA=="], model="fake-model", input_type="image", batching=False)
    assert refused.value.status_code == 400
    assert "images" in refused.value.body["message"]
