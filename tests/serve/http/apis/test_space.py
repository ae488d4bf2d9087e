"""Spaces over HTTP: the identifier in every answer with vectors, `/v1/space`, and `If-Space`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import openai
import pytest

from fletcher.convert.spaces import read_space
from fletcher.model_zoo.card import Accuracy, ModelCard
from fletcher.runtime import Artifact, Encoder
from fletcher.serve.http.apis.space import SpaceAnswer
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

SECONDS = 20.0


@pytest.fixture(scope="module")
def url(tiny_artifact: Path) -> Iterator[str]:
    with (
        Encoder.load(tiny_artifact, provider="mlas") as encoder,
        Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=10)) as server,
    ):
        assert server.addresses.http is not None
        yield server.addresses.http


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def space(tiny_artifact: Path) -> str:
    return read_space(tiny_artifact).id


@pytest.fixture(scope="module")
def name(http: httpx.Client) -> str:
    return str(http.get("/v1/models").json()["data"][0]["id"])


def test_the_card_has_the_variants_of_the_artifact(http: httpx.Client, tiny_artifact: Path) -> None:
    manifest = Artifact.open(tiny_artifact).manifest
    answer = http.get("/v1/card").json()
    assert msgspec.convert(answer["card"], ModelCard) == manifest.card
    for found, variant in zip(answer["variants"], manifest.variants, strict=True):
        expected = {name: getattr(variant, name) for name in found if name != "tolerance"}
        assert {name: value for name, value in found.items() if name != "tolerance"} == expected
        assert msgspec.convert(found["tolerance"], Accuracy) == variant.tolerance
    assert answer["variant"] in [found["name"] for found in answer["variants"]]


def test_every_answer_with_vectors_names_their_space(http: httpx.Client, name: str, space: str) -> None:
    """A body has a field for it where its clients accept one; every answer has the header."""
    openai_answer = http.post("/v1/embeddings", json={"model": name, "input": ["a", "b"]})
    cohere = {"model": name, "input_type": "search_query", "texts": ["a"]}
    answers = [
        openai_answer,
        http.post("/embed", json={"inputs": "a"}),
        http.post("/embed", json={"inputs": "a", "detail": True}),
        http.post("/similarity", json={"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
        http.post("/v2/embed", json=cohere),
        http.post("/encode", content=b"\x81\x61a", headers={"content-type": "application/cbor"}),
        http.post("/v1/embeddings", json={"model": name, "input": ["a"] * 200}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-space"] == space, answer.request.url
    assert openai_answer.json()["space"] == answers[-1].json()["space"] == space
    assert answers[4].json()["meta"]["space"] == space
    states = http.post("/embed_all", json={"inputs": "a"})
    assert states.headers["x-space"] == f"{space}.tokens"


def test_answers_without_vectors_name_no_space(http: httpx.Client, name: str) -> None:
    answers = [
        http.post("/tokenize", json={"inputs": "a"}),
        http.get("/v1/models"),
        http.post("/v1/embeddings", json={"model": name, "input": []}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    assert not any("x-space" in answer.headers for answer in answers)


def test_options_that_change_the_vectors_change_the_identifier(http: httpx.Client, name: str, space: str) -> None:
    answer = http.post("/v1/embeddings", json={"model": name, "input": "a", "overflow": "windows"})
    assert answer.headers["x-space"] == answer.json()["space"] == f"{space}.windows"


def test_a_stream_names_its_space_in_the_header_and_in_the_last_line(http: httpx.Client, name: str, space: str) -> None:
    answer = http.post(
        "/v1/embeddings", json={"model": name, "input": ["a"] * 200}, headers={"accept": "application/x-ndjson"}
    )
    assert answer.headers["x-space"] == space
    assert json.loads(answer.text.splitlines()[-1])["space"] == space


def test_openai_s_client_reads_the_extension(url: str, name: str, space: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=SECONDS) as client:
        answer = client.embeddings.create(model=name, input="a")
        assert answer.model_extra == {"space": space}
        assert client.models.retrieve(name).model_extra is not None
        with pytest.raises(openai.APIStatusError) as refused:
            client.embeddings.create(model=name, input="a", extra_headers={"If-Space": "fs1-aaaaaaaaaaaaaaaa"})
        assert refused.value.status_code == 412


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "MODEL", "input": "a"}),
        ("/embed", {"inputs": "a"}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
        ("/v2/embed", {"model": "MODEL", "input_type": "search_query", "texts": ["a"]}),
    ],
)
def test_if_space_refuses_another_space_s_vectors(
    http: httpx.Client, name: str, space: str, path: str, body: dict[str, Any]
) -> None:
    body = {key: name if value == "MODEL" else value for key, value in body.items()}

    def ask(wanted: str) -> httpx.Response:
        return http.post(path, json=body, headers={"If-Space": wanted})

    assert ask(space).status_code == 200
    assert ask(f"fs1-aaaaaaaaaaaaaaaa, {space}").status_code == 200
    refused = ask("fs1-aaaaaaaaaaaaaaaa")
    assert refused.status_code == 412
    assert space in refused.text and "fs1-aaaaaaaaaaaaaaaa" in refused.text
    assert "x-space" not in refused.headers
    assert ask("two words").status_code in (400, 422)


def test_if_space_compares_the_options_as_well(http: httpx.Client, name: str, space: str) -> None:
    body = {"model": name, "input": "a", "overflow": "truncate_left"}
    assert http.post("/v1/embeddings", json=body, headers={"If-Space": space}).status_code == 412
    assert http.post("/v1/embeddings", json=body, headers={"If-Space": f"{space}.left"}).status_code == 200


def test_the_canary_of_a_space_checks_a_server_later(http: httpx.Client, name: str, space: str, tmp_path: Path) -> None:
    """The steps of docs/howto/spaces.md: save the answer, and compare a server with it a year later."""
    saved = tmp_path / "space.json"
    saved.write_bytes(http.get("/v1/space").content)
    known = json.loads(saved.read_text())
    msgspec.json.decode(saved.read_bytes(), type=SpaceAnswer)
    assert known["space"] == space == read_space(saved).id
    body = {"model": name, "input": known["canary"]["texts"], "input_type": "raw", "encoding_format": "float"}
    answer = http.post("/v1/embeddings", json=body, headers={"If-Space": known["space"]}).json()
    vectors = np.array([item["embedding"] for item in answer["data"]], np.float32)
    expected = np.array(known["canary"]["vectors"], np.float32)
    assert np.abs(vectors - expected).max() <= known["bounds"]["reference"]["max_abs"]
    ids = {"model": name, "input": known["canary"]["token_ids"], "encoding_format": "float"}
    again = np.array([item["embedding"] for item in http.post("/v1/embeddings", json=ids).json()["data"]], np.float32)
    assert np.abs(again - expected).max() <= known["bounds"]["reference"]["max_abs"]


def test_space_of_a_model_by_name(http: httpx.Client, name: str, space: str) -> None:
    assert http.get("/v1/space", params={"model": f"{name}@1"}).json()["space"] == space
    assert http.get("/v1/space", params={"model": "other"}).status_code == 404
    (model,) = http.get("/v1/models").json()["data"]
    assert model["space"] == space
    assert model["bounds"] == http.get("/v1/space").json()["bounds"]
    assert model["bounds"]["batch"]["max_abs"] == 1e-6
    assert 0 <= model["bounds"]["batch"]["measured_abs"] <= 1e-6
