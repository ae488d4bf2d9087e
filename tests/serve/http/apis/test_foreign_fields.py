"""Fields of other servers: accepted where they ask for what happens anyway, translated, or refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fletcher.serve.http.apis.foreign_fields import EMBEDDING, RANKING, TEXTS
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder, expected

LONG = "x" * 20


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server,
        httpx.Client(base_url=str(server.addresses.http), timeout=10) as client,
    ):
        yield client


def embed(http: httpx.Client, fields: dict[str, Any], text: str = "ab") -> httpx.Response:
    return http.post("/v1/embeddings", json={"model": "fake-model", "input": [text], **fields})


def vector(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["data"][0]["embedding"]


#: Bodies as the sources of the clients have them, besides the texts and the model, and the prompt that they ask for.
CLIENTS: dict[str, tuple[dict[str, Any], str]] = {
    "voyageai 0.5.0": (
        {"input_type": None, "truncation": True, "output_dtype": None, "output_dimension": None},
        "",
    ),
    "voyageai 0.5.0, query": ({"input_type": "query", "truncation": True}, "query: "),
    "langchain-nvidia": ({"encoding_format": "float", "input_type": "query", "truncate": "END"}, "query: "),
    "llama-index-embeddings-nvidia": ({"input_type": "passage", "truncate": "END"}, ""),
    "llama-index-embeddings-jinaai": ({"encoding_type": "float", "task": "retrieval.query"}, "query: "),
    "jina-haystack": ({"task": "retrieval.passage", "late_chunking": False}, ""),
    "jina": ({"normalized": None, "embedding_type": "float", "task": "retrieval.query"}, "query: "),
    "vllm": ({"truncate_prompt_tokens": -1, "add_special_tokens": True, "priority": 0, "encoding_format": "float"}, ""),
    "vllm, nulls": ({"truncate_prompt_tokens": None, "dimensions": None, "user": None}, ""),
    "infinity_client": ({"modality": "text", "encoding_format": "float", "dimensions": 0}, ""),
    "litellm 1.82.3": ({"encoding_format": None}, ""),
    "cohere's names": ({"input_type": "search_query"}, "query: "),
    "mistral": ({"output_dtype": "float"}, ""),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_bodies_of_clients(http: httpx.Client, client: str) -> None:
    fields, prompt = CLIENTS[client]
    assert vector(embed(http, fields)) == expected("ab", prompt).tolist()


@pytest.mark.parametrize(
    "fields",
    [{"output_dimension": 4}, {"output_dimension": 4, "dimensions": 4}, {"output_dimension": 4, "dimensions": 0}],
)
def test_another_name_of_dimensions(http: httpx.Client, fields: dict[str, Any]) -> None:
    assert vector(embed(http, fields)) == expected("ab")[:4].tolist()


def test_another_name_of_normalize(http: httpx.Client) -> None:
    unit = expected("ab") / np.linalg.norm(expected("ab"))
    np.testing.assert_allclose(vector(embed(http, {"normalized": True})), unit, rtol=1e-6)


@pytest.mark.parametrize("fields", [{"embedding_type": "base64"}, {"encoding_type": "base64"}])
def test_another_name_of_the_encoding(http: httpx.Client, fields: dict[str, Any]) -> None:
    assert vector(embed(http, fields)) == vector(embed(http, {"encoding_format": "base64"}))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"truncation": True}, 200),
        ({"truncate": True}, 200),
        ({"truncate": "END"}, 200),
        ({"truncation": False}, 400),
        ({"truncate": False}, 400),
        ({"truncate": "NONE"}, 400),
    ],
)
def test_a_long_text_is_cut_or_refused(http: httpx.Client, fields: dict[str, Any], status: int) -> None:
    response = embed(http, fields, LONG)
    assert response.status_code == status
    if status == 200:
        assert vector(response) == expected(LONG).tolist()
    else:
        assert response.json()["error"]["code"] == "context_length_exceeded"


#: Values that would change the answer, and words of the message.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"truncate_prompt_tokens": 8}, "truncate_prompt_tokens is 8: a text is always cut at the model's own limit"),
    ({"late_chunking": True}, "late_chunking is true: true joins the texts of a request"),
    ({"embedding_type": "ubinary"}, "embedding_type is 'ubinary': use float or base64, and dtype"),
    ({"embedding_type": ["float", "binary"]}, "embedding_type is ['float', 'binary']"),
    ({"output_dtype": "int8"}, "output_dtype is 'int8': use float, and dtype"),
    ({"modality": "image"}, "modality is 'image': this server has models of texts"),
    ({"add_special_tokens": False}, "add_special_tokens is false: the model was trained with its special tokens"),
    ({"return_multivector": True}, "return_multivector is true: use /embed_all"),
    ({"endianness": "big"}, "endianness is 'big'"),
    ({"truncate": "MIDDLE"}, "truncate is 'MIDDLE'"),
    ({"truncation": 1}, "truncation is 1"),
    ({"priority": "high"}, "priority is 'high'"),
    ({"task": "text-matching"}, "task is 'text-matching'; fake-model has query"),
    ({"output_dimension": 5}, "output_dimension is 5; fake-model gives vectors of 8, 4"),
    ({"output_dimension": 4, "dimensions": 8}, "output_dimension is 4, but dimensions is 8: leave one of them out"),
    ({"truncation": False, "overflow": "truncate"}, "truncation is false, but overflow is 'truncate'"),
    ({"messages": []}, "unknown field `messages`"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_what_would_change_the_vector_is_refused_by_name(
    http: httpx.Client, fields: dict[str, Any], words: str
) -> None:
    response = embed(http, fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert words in error["message"]
    assert error["param"] == next(iter(fields))


def test_the_body_of_huggingface_hub(http: httpx.Client) -> None:
    body = {"inputs": "ab", "normalize": False, "encoding_format": "float"}
    assert http.post("/embed", json=body).json() == [expected("ab").tolist()]
    refused = http.post("/embed", json=body | {"encoding_format": "base64"})
    assert refused.status_code == 422
    assert "encoding_format is 'base64': this route returns numbers" in refused.json()["error"]


def test_empty_parameters_of_huggingface_hub(http: httpx.Client) -> None:
    """`InferenceClient.text_classification` sends `parameters`, also without any."""
    body = {"inputs": "ab", "parameters": {}}
    assert http.post("/embed", json=body).status_code == 200
    refused = http.post("/embed", json={"inputs": "ab", "parameters": {"top_k": 2}})
    assert refused.status_code == 422
    assert "parameters is {'top_k': 2}: put fields beside inputs" in refused.json()["error"]


@pytest.mark.parametrize("table", [EMBEDDING, TEXTS, RANKING], ids=["embedding", "texts", "ranking"])
def test_schemas_list_exactly_the_accepted_values(table: Any) -> None:
    for name, foreign in table.items():
        assert name == foreign.name
        for value in foreign.schema.get("enum", []):
            assert foreign.read(value) is not None
        for value in ("no such value", -7, 2.5, [], {}):
            if value not in foreign.schema.get("enum", [value]):
                assert foreign.read(value) in (None, {name: value})


# Documentation --------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "clients.md"
WORDS = {"string": "a text", "integer": "an integer", "boolean": "true or false"}


def documented(heading: str) -> list[list[str]]:
    """Return the rows of the first table after a heading of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table[0].splitlines()[2:]]


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("In requests for embeddings", EMBEDDING),
        ("In requests of text-embeddings-inference", TEXTS),
        ("In requests for rankings", RANKING),
    ],
)
def test_the_page_has_every_field(heading: str, table: Any) -> None:
    rows = []
    for foreign in table.values():
        schema = foreign.schema
        accepted = [f"`{json.dumps(value)}`" for value in schema.get("enum", [])] or [WORDS[schema["type"]]]
        rows.append([f"`{foreign.name}`", foreign.servers, ", ".join(accepted), foreign.meaning])
    assert documented(heading) == rows
