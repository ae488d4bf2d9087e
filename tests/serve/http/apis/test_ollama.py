"""Ollama's routes, with Ollama's client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

import fletcher
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder, expected


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        yield str(server.addresses.http)


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(host=url) as client:
        yield client


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=10) as client:
        yield client


def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    normalized: np.ndarray[Any, Any] = vector / np.linalg.norm(vector)
    return normalized


@pytest.mark.parametrize("name", ["fake-model", "fake-model:latest", "fake"])
def test_the_client_embeds(client: ollama.Client, name: str) -> None:
    answer = client.embed(model=name, input=["ab", "cd"], truncate=True, keep_alive="5m", options={"num_gpu": 1})
    np.testing.assert_allclose(answer.embeddings, [unit(expected("ab")), unit(expected("cd"))], rtol=1e-6)
    assert answer.prompt_eval_count == 8
    assert answer.model == name
    one = client.embed(model=name, input="ab", dimensions=4)
    np.testing.assert_allclose(one.embeddings, [unit(expected("ab")[:4])], rtol=1e-6)


def test_the_client_embeds_with_the_old_route(client: ollama.Client) -> None:
    answer = client.embeddings(model="fake-model", prompt="ab", options={"num_ctx": 2048})
    assert list(answer.embedding) == expected("ab").tolist()


def test_the_client_lists_the_models(client: ollama.Client) -> None:
    (model,) = client.list().models
    assert model.model == "fake-model"
    assert model.details is not None
    assert model.details.family == "bert"


@pytest.mark.parametrize("texts", ["", []])
def test_a_request_without_a_text_is_answered_without_vectors(client: ollama.Client, texts: str | list[str]) -> None:
    answer = client.embed(model="fake-model", input=texts)  # Ollama loads the model and answers so (server/routes.go)
    assert (answer.model, list(answer.embeddings)) == ("fake-model", [])


@pytest.mark.parametrize("prompt", ["", None])
def test_the_old_route_without_a_text_has_an_empty_vector(client: ollama.Client, prompt: str | None) -> None:
    assert list(client.embeddings(model="fake-model", prompt=prompt).embedding) == []


def test_an_empty_text_in_a_list_has_a_vector(client: ollama.Client) -> None:
    answer = client.embed(model="fake-model", input=["", "ab"])
    np.testing.assert_allclose(answer.embeddings, [unit(expected("")), unit(expected("ab"))], rtol=1e-6)


def test_a_request_without_a_text_needs_a_known_model(client: ollama.Client) -> None:
    for ask in (lambda: client.embed(model="other"), lambda: client.embeddings(model="other")):
        with pytest.raises(ollama.ResponseError, match="'other' is not served here") as unknown:
            ask()
        assert unknown.value.status_code == 404


def test_an_input_type_adds_the_prompt(http: httpx.Client) -> None:
    body = {"model": "fake-model", "prompt": "ab", "input_type": "query"}
    assert http.post("/api/embeddings", json=body).json()["embedding"] == expected("ab", "query: ").tolist()


def test_the_version(http: httpx.Client) -> None:
    assert http.get("/api/version").json() == {"version": fletcher.__version__}


def test_errors_have_the_shape_of_ollama(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="'other' is not served here") as unknown:
        client.embed(model="other", input="ab")
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="takes at most 16") as too_long:
        client.embed(model="fake-model", input="x" * 20, truncate=False)
    assert too_long.value.status_code == 400
    with pytest.raises(
        ollama.ResponseError, match=r"options\.num_ctx is 8, but the model always reads up to 16 tokens"
    ):
        client.embed(model="fake-model", input="ab", options={"num_ctx": 8})
