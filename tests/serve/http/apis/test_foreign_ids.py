"""Token ids of another tokenizer are refused; ids of the model's own tokenizer give the vector of the text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from transformers import AutoTokenizer

from fletcher.runtime import Encoder
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

SECONDS = 20.0
TEXTS = ["hello world", "The cat sat on the mat.", "how do I reset my password?"]

#: Ids that OpenAI publishes for its tokenizer cl100k_base (openai-cookbook, "How to count tokens with tiktoken"). All of them
#: are ids of MiniLM's vocabulary as well. LangChain's `OpenAIEmbeddings` sends such ids with its default settings.
CL100K = {"tiktoken is great!": [83, 1609, 5963, 374, 2294, 0], "hello world": [15339, 1917]}


@pytest.fixture(scope="module")
def url(minilm_artifact: Path) -> Iterator[str]:
    with (
        Encoder.load(minilm_artifact, provider="mlas", workers=1) as encoder,
        Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=10)) as server,
    ):
        assert server.addresses.http is not None
        yield server.addresses.http


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def reference(minilm_checkpoint: Path) -> NDArray[np.float32]:
    """Return the vectors of the texts by sentence-transformers in float32."""
    from sentence_transformers import SentenceTransformer

    return np.asarray(SentenceTransformer(str(minilm_checkpoint), device="cpu").encode(TEXTS), np.float32)


@pytest.fixture(scope="module")
def tokenizer(minilm_checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(minilm_checkpoint)


def vectors(answer: httpx.Response) -> NDArray[np.float32]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return np.array(body if isinstance(body, list) else [item["embedding"] for item in body["data"]], np.float32)


@pytest.mark.parametrize("rows", [*([row] for row in CL100K.values()), list(CL100K.values())], ids=str)
def test_ids_of_openai_s_tokenizer_are_refused_and_the_message_names_langchain_s_setting(
    url: str, rows: list[list[int]]
) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=SECONDS) as client,
        pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as refused,
    ):
        client.embeddings.create(model="all-MiniLM-L6-v2", input=rows)
    assert "101 ([CLS])" in refused.value.message and "102 ([SEP])" in refused.value.message


@pytest.mark.parametrize("row", [[0, 0], [101], [102, 101], [101, 7592], [7592, 102], [1037, 3793]])
def test_a_row_without_both_special_tokens_is_refused(http: httpx.Client, row: list[int]) -> None:
    openai_answer = http.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": row})
    tei_answer = http.post("/embed", json={"inputs": row})
    for answer, status in ((openai_answer, 400), (tei_answer, 422)):
        assert answer.status_code == status and '"special_tokens' in answer.text.replace("\\", "")


def test_the_model_s_own_ids_give_the_text_s_vectors(
    http: httpx.Client, reference: NDArray[np.float32], tokenizer: Any
) -> None:
    rows = tokenizer(TEXTS)["input_ids"]
    bare = tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    model = {"model": "all-MiniLM-L6-v2", "encoding_format": "float"}
    for fields in ({"input": rows}, {"input": rows, "special_tokens": True}, {"input": bare, "special_tokens": False}):
        np.testing.assert_allclose(vectors(http.post("/v1/embeddings", json=model | fields)), reference, atol=1e-5)
    for fields in ({"inputs": rows}, {"inputs": bare, "special_tokens": False}):
        np.testing.assert_allclose(vectors(http.post("/embed", json=fields)), reference, atol=1e-5)


@pytest.mark.parametrize("special", [True, False])
def test_the_ids_of_tokenize_go_back_to_the_text_s_vectors(
    http: httpx.Client, reference: NDArray[np.float32], special: bool
) -> None:
    tokens = http.post("/tokenize", json={"inputs": TEXTS, "add_special_tokens": special}).json()
    rows = [[token["id"] for token in row] for row in tokens]
    answer = http.post("/embed", json={"inputs": rows, "special_tokens": special})
    np.testing.assert_allclose(vectors(answer), reference, atol=1e-5)


def test_special_tokens_that_are_there_are_not_added_again(http: httpx.Client, tokenizer: Any) -> None:
    row = tokenizer(TEXTS[0])["input_ids"]
    answer = http.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": row, "special_tokens": False})
    assert answer.status_code == 400 and "already" in answer.text


def test_special_tokens_is_for_ids(http: httpx.Client) -> None:
    for special in (True, False):
        answer = http.post(
            "/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": "a", "special_tokens": special}
        )
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "special_tokens"
        assert http.post("/embed", json={"inputs": "a", "special_tokens": special}).status_code == 422
