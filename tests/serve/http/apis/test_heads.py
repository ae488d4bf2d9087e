"""Rerankers, SPLADE, ColBERT and token states over HTTP, against sentence-transformers and HuggingFace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from fletcher.convert.export.export import export
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ....convert.heads import test_classification, test_colbert, test_splade
from ....convert.heads.tiny import DOCUMENTS, QUERY, VOCABULARY, convert
from ....convert.tiny import HIDDEN, save_embedder


@contextmanager
def serving(*paths: Path) -> Iterator[httpx.Client]:
    specs = [ModelSpec(path=str(path), name=path.name, provider="mlas", workers=1, cache="0") for path in paths]
    with (
        Server(specs, ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=10)) as server,
        httpx.Client(base_url=str(server.addresses.http), timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("heads")


def test_a_reranker(folder: Path) -> None:
    checkpoint = test_classification.make(folder / "reranker")
    logits = CrossEncoder(str(checkpoint), device="cpu", activation_fn=torch.nn.Identity()).predict(
        [(QUERY, text) for text in DOCUMENTS], batch_size=1
    )
    body = {"query": QUERY, "texts": DOCUMENTS}
    with serving(convert(checkpoint).path) as http:
        response = http.post("/rerank", json=body)
        ranks = response.json()
        raw = http.post("/rerank", json=body | {"raw_scores": True, "return_text": True}).json()
        refused = http.post("/rerank", json=body | {"truncate": False})
        wrong = http.post("/v1/embeddings", json={"model": "reranker.artifact", "input": "a"})
        info = http.get("/info").json()
    order = np.argsort(-logits, kind="stable").tolist()
    assert [rank["index"] for rank in ranks] == order
    np.testing.assert_allclose([rank["score"] for rank in ranks], 1 / (1 + np.exp(-logits[order])), atol=1e-5)
    np.testing.assert_allclose([rank["score"] for rank in raw], logits[order], atol=1e-4)
    assert [rank["text"] for rank in raw] == [DOCUMENTS[index] for index in order]
    assert int(response.headers["x-tokens-dropped"].split(",")[4]) > 0
    assert refused.status_code == 413
    assert wrong.status_code == 400
    assert "scores" in wrong.json()["error"]["message"]
    assert info["model_type"] == {"reranker": {}}


def test_weights_of_tokens(folder: Path) -> None:
    checkpoint = test_splade.make(folder / "splade")
    artifact = convert(checkpoint, "splade").path
    reference = test_splade.expected(checkpoint)
    with serving(artifact) as http:
        response = http.post("/embed_sparse", json={"inputs": DOCUMENTS})
        assert http.post("/embed_all", json={"inputs": "a"}).status_code == 404
    weights = np.zeros((len(DOCUMENTS), VOCABULARY))
    for row, values in zip(weights, response.json(), strict=True):
        for value in values:
            row[value["index"]] = value["value"]
    np.testing.assert_allclose(weights, reference, atol=1e-5)
    assert int(response.headers["x-tokens-dropped"].split(",")[4]) > 0


def test_colbert_and_a_reranker_in_one_server(folder: Path) -> None:
    """Two models with different outputs: each route finds its model without a name."""
    colbert = test_colbert.make(folder / "colbert")
    reranker = test_classification.make(folder / "second")
    model = MultiVectorEncoder(str(colbert), device="cpu")
    texts = list(DOCUMENTS)
    reference = [model.encode_document([text])[0].numpy() for text in texts]
    queries = [model.encode_query([QUERY])[0].numpy()]
    with serving(convert(reranker).path, convert(colbert).path) as http:
        documents = http.post("/embed_all", json={"inputs": texts, "input_type": "document"}).json()
        (query,) = http.post("/embed_all", json={"inputs": QUERY, "prompt_name": "query", "detail": True}).json()
        synonym = http.post("/embed_all", json={"inputs": QUERY, "input_type": "search_query"}).json()
        ranked = http.post("/rerank", json={"query": QUERY, "texts": texts})
    for vectors, rows in zip(documents, reference, strict=True):
        np.testing.assert_allclose(np.array(vectors), rows, atol=1e-5)
    np.testing.assert_allclose(np.array(query["embeddings"]), queries[0], atol=1e-5)
    assert query["tokens_dropped"] == 0
    assert synonym == [query["embeddings"]]
    assert ranked.status_code == 200


def test_states_of_tokens_are_those_of_huggingface(minilm_artifact: Path, minilm_checkpoint: Path) -> None:
    texts = ["A man is eating food.", "The girl is carrying a baby, and the sun shines."]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(minilm_checkpoint))
    model = transformers.AutoModel.from_pretrained(str(minilm_checkpoint)).eval()
    with serving(minilm_artifact) as http:
        answers = http.post("/embed_all", json={"inputs": texts}).json()
        tokens = http.post("/tokenize", json={"inputs": texts}).json()
        bare = http.post("/tokenize", json={"inputs": texts, "add_special_tokens": False}).json()
    for text, states, row, plain in zip(texts, answers, tokens, bare, strict=True):
        encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            reference = model(**encoded).last_hidden_state[0].numpy()
        np.testing.assert_allclose(np.array(states), reference, atol=1e-5)
        ids = encoded["input_ids"][0].tolist()
        assert [token["id"] for token in row] == ids
        assert [token["id"] for token in plain] == ids[1:-1]
        assert [[token["start"], token["stop"]] for token in plain] == offsets[1:-1]
        assert [token["special"] for token in row] == [True, *[False] * (len(ids) - 2), True]


def test_vectors_before_their_normalization_are_those_of_sentence_transformers(
    minilm_artifact: Path, minilm_checkpoint: Path
) -> None:
    """Haystack's embedders for TEI send `normalize: false` by default."""
    texts = ["A man is eating food.", "The girl is carrying a baby, and the sun shines.", "", "word " * 400]
    texts += [f"text number {number}" for number in range(70)]  # more than one piece
    *modules, last = SentenceTransformer(str(minilm_checkpoint), device="cpu")
    assert isinstance(last, Normalize)
    reference = SentenceTransformer(modules=modules, device="cpu").encode(texts, batch_size=1)
    body = {"inputs": texts, "truncate": True, "normalize": False}
    with serving(minilm_artifact) as http:
        plain = http.post("/embed", json=body)
        detailed = http.post("/embed", json=body | {"detail": True}).json()
        refused = http.post("/embed", json=body | {"truncate": False})
        others = [http.post("/embed", json=body | more) for more in ({"dtype": "float16"}, {"overflow": "windows"})]
        unit = http.post("/embed", json=body | {"normalize": True})
    assert np.ptp(np.linalg.norm(reference, axis=1)) > 0.1
    np.testing.assert_allclose(np.array(plain.json()), reference, atol=2e-5)
    assert "x-normalized" not in plain.headers
    assert plain.headers["x-space"] == f"{unit.headers['x-space']}.unscaled"
    assert plain.headers["x-tokens-seen"] == unit.headers["x-tokens-seen"]
    assert plain.headers["x-tokens-dropped"] == unit.headers["x-tokens-dropped"]
    assert [item["embedding"] for item in detailed] == plain.json()
    assert refused.status_code == 413
    for other in others:
        assert other.headers["x-normalized"] == "true"
        np.testing.assert_allclose(np.linalg.norm(np.array(other.json()), axis=1), 1, atol=1e-3)


def test_vectors_without_token_states_stay_normalized_and_a_header_says_so(tmp_path: Path) -> None:
    """The pooling `cls` does not leave the states of tokens in the graph."""
    folder = save_embedder(tmp_path / "cls")
    settings = {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    export(str(folder), tmp_path / "artifact")
    with serving(tmp_path / "artifact") as http:
        response = http.post("/embed", json={"inputs": list(DOCUMENTS[:1]), "normalize": False})
    assert response.headers["x-normalized"] == "true"
    np.testing.assert_allclose(np.linalg.norm(np.array(response.json()), axis=1), 1, atol=1e-6)
