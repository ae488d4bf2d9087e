"""Rankings, scores of pairs and labels, against sentence-transformers and transformers, with the bodies that clients send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import InferenceClient
from sentence_transformers import CrossEncoder

from fletcher.convert.export.export import export
from fletcher.runtime.tasks.sigmoids import sigmoid_scores
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ....convert.heads import language_models, test_classification, test_flag_reranker, test_logit_score
from ....convert.heads.tiny import DOCUMENTS, MAX_TOKENS, QUERY, convert

TEXTS = list(DOCUMENTS)
LABELS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoints `reranker`, `classifier`, `language` and `flag`, and their artifacts."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranking")
    convert(test_classification.make(folder / "reranker"))
    convert(test_classification.make(folder / "classifier", labels=LABELS))
    export(str(language_models.save(folder / "language")), folder / "language.artifact", tokenizer_like="5")
    flag = test_flag_reranker.make(folder / "flag")
    test_flag_reranker.convert(flag, folder / "flag.artifact", test_flag_reranker.card_for(flag))
    return folder


@pytest.fixture(scope="module")
def specs(folder: Path, tiny_artifact: Path) -> list[ModelSpec]:
    names = ["reranker", "classifier", "language", "flag", "embedder"]
    paths = [*(folder / f"{name}.artifact" for name in names[:-1]), tiny_artifact]
    return [
        ModelSpec(path=str(path), name=name, provider="mlas", workers=1, cache="0")
        for path, name in zip(paths, names, strict=True)
    ]


@pytest.fixture(scope="module", params=[0, 1], ids=["one process", "fronts"])
def url(request: pytest.FixtureRequest, specs: list[ModelSpec]) -> Iterator[str]:
    """Return the URL of a server with one process, and of one with a front."""
    options = ServerOptions(
        http="127.0.0.1:0", flight="off", drain_seconds=10, fronts=request.param, default_model="embedder"
    )
    with Supervisor(specs, options) if request.param else Server(specs, options) as server:
        yield str(server.addresses.http)


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def scores(folder: Path) -> np.ndarray[Any, Any]:
    """Return the sigmoids of `CrossEncoder` for the query and each document."""
    model = CrossEncoder(str(folder / "reranker"), device="cpu", activation_fn=torch.nn.Sigmoid())
    reference: np.ndarray[Any, Any] = np.asarray(model.predict([(QUERY, text) for text in TEXTS], batch_size=1))
    return reference


def best_first(scores: np.ndarray[Any, Any]) -> list[int]:
    return [int(index) for index in np.argsort(-scores, kind="stable")]


def check(results: list[dict[str, Any]], scores: np.ndarray[Any, Any], count: int) -> None:
    """Check the indices and the scores of results."""
    order = best_first(scores)[:count]
    assert [result["index"] for result in results] == order
    np.testing.assert_allclose([result["relevance_score"] for result in results], scores[order], atol=1e-5)


# Clients --------------------------------------------------------------------------------------------------------------


def test_the_client_of_cohere_v2(url: str, scores: np.ndarray[Any, Any]) -> None:
    with httpx.Client(timeout=30) as http:
        client = cohere.ClientV2(api_key="unused", base_url=url, httpx_client=http)
        answer = client.rerank(model="reranker", query=QUERY, documents=TEXTS, top_n=2)
    check([result.model_dump() for result in answer.results], scores, 2)
    assert "document" not in answer.results[0].model_dump()
    assert answer.id
    assert answer.meta is not None and answer.meta.billed_units is not None
    assert answer.meta.billed_units.search_units == 1


@pytest.mark.parametrize("documents", [TEXTS, [{"text": text, "title": "of a document"} for text in TEXTS]])
def test_the_client_of_cohere_v1(url: str, scores: np.ndarray[Any, Any], documents: Any) -> None:
    with httpx.Client(timeout=30) as http:
        client = cohere.Client(api_key="unused", base_url=url, httpx_client=http)
        answer = client.rerank(
            model="reranker", query=QUERY, documents=documents, top_n=4, return_documents=True, max_chunks_per_doc=1
        )
    check([result.model_dump() for result in answer.results], scores, 4)
    assert [result.document and result.document.text for result in answer.results] == [
        TEXTS[index] for index in best_first(scores)[:4]
    ]
    assert answer.meta is not None and answer.meta.api_version is not None
    assert answer.meta.api_version.version == "1"


#: Bodies as the sources of the clients have them, besides the query and the documents.
JINA_CLIENTS = {
    "haystack's JinaRanker": ("/v1/rerank", {"model": "reranker", "top_n": 3}),
    "llama-index's JinaRerank": ("/v1/rerank", {"model": "reranker", "top_n": 3}),
    "litellm's jina_ai": ("/v1/rerank", {"model": "reranker", "top_n": 3, "return_documents": True}),
    "litellm's hosted_vllm": ("/rerank", {"model": "reranker", "top_n": 3, "return_documents": True}),
    "litellm's infinity": ("/rerank", {"model": "reranker", "top_n": 3, "return_documents": True}),
    "dify": ("/rerank", {"model": "reranker", "top_n": 3}),
    "infinity_client": ("/rerank", {"model": "reranker", "top_n": 3, "return_documents": False, "raw_scores": False}),
    "nulls": ("/v1/rerank", {"model": "reranker", "top_n": 3, "rank_fields": None, "max_tokens_per_doc": None}),
}


@pytest.mark.parametrize("client", JINA_CLIENTS)
def test_bodies_of_the_clients_of_jina(http: httpx.Client, scores: np.ndarray[Any, Any], client: str) -> None:
    path, fields = JINA_CLIENTS[client]
    answer = http.post(path, json={"query": QUERY, "documents": TEXTS, **fields}).json()
    check(answer["results"], scores, 3)
    assert answer["model"] == "reranker"
    assert answer["object"] == ("rerank" if path == "/rerank" else "list")  # infinity's and Voyage's clients check it
    assert answer["usage"]["total_tokens"] == sum(answer["meta"]["tokens_seen"])
    shown = [TEXTS[index] for index in best_first(scores)[:3]]
    if fields.get("return_documents", True):
        assert [result["document"]["text"] for result in answer["results"]] == shown
    else:
        assert all("document" not in result for result in answer["results"])


#: Bodies of voyageai 0.5.0 and of litellm's provider `voyage`.
VOYAGE_BODIES: list[dict[str, Any]] = [
    {"top_k": 2, "truncation": True},
    {"top_k": None, "truncation": True},
    {"top_k": 2, "return_documents": True},
    {"return_documents": True},
]


@pytest.mark.parametrize("fields", VOYAGE_BODIES)
def test_bodies_of_the_clients_of_voyage(
    http: httpx.Client, scores: np.ndarray[Any, Any], fields: dict[str, Any]
) -> None:
    body = {"query": QUERY, "documents": TEXTS, "model": "reranker", **fields}
    answer = http.post("/v1/rerank", json=body).json()
    count = fields.get("top_k") or len(TEXTS)
    assert answer["object"] == "list"
    check(answer["data"], scores, count)
    documents = [TEXTS[index] if "return_documents" in fields else None for index in best_first(scores)[:count]]
    assert [result.get("document") for result in answer["data"]] == documents
    assert answer["usage"]["total_tokens"] > 0


def test_the_route_of_tei_takes_top_n(http: httpx.Client, scores: np.ndarray[Any, Any]) -> None:
    """litellm's provider `huggingface` sends it."""
    body = {"query": QUERY, "texts": TEXTS, "raw_scores": False, "return_text": True, "top_n": 2, "model": "reranker"}
    ranks = http.post("/rerank", json=body).json()
    order = best_first(scores)[:2]
    assert [rank["index"] for rank in ranks] == order
    assert [rank["text"] for rank in ranks] == [TEXTS[index] for index in order]
    np.testing.assert_allclose([rank["score"] for rank in ranks], scores[order], atol=1e-5)


# Scores of pairs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sides",
    [
        {"text_1": QUERY, "text_2": TEXTS},
        {"queries": QUERY, "documents": TEXTS},
        {"text_1": [QUERY] * len(TEXTS), "text_2": TEXTS},
        {"text_1": [QUERY], "text_2": TEXTS, "truncate_prompt_tokens": -1, "priority": 0},
    ],
)
def test_scores_of_pairs(http: httpx.Client, scores: np.ndarray[Any, Any], sides: dict[str, Any]) -> None:
    answer = http.post("/v1/score", json={"model": "reranker", **sides}).json()
    assert [item["index"] for item in answer["data"]] == list(range(len(TEXTS)))
    np.testing.assert_allclose([item["score"] for item in answer["data"]], scores, atol=1e-5)


def test_scores_of_pairs_with_different_first_texts(http: httpx.Client, folder: Path) -> None:
    model = CrossEncoder(str(folder / "reranker"), device="cpu", activation_fn=torch.nn.Sigmoid())
    seconds = TEXTS[::-1]
    reference = model.predict(list(zip(TEXTS, seconds, strict=True)), batch_size=1)
    answer = http.post("/score", json={"model": "reranker", "text_1": TEXTS, "text_2": seconds}).json()
    np.testing.assert_allclose([item["score"] for item in answer["data"]], reference, atol=1e-5)
    reference = model.predict([(text, QUERY) for text in TEXTS], batch_size=1)
    answer = http.post("/score", json={"model": "reranker", "text_1": TEXTS, "text_2": QUERY}).json()
    np.testing.assert_allclose([item["score"] for item in answer["data"]], reference, atol=1e-5)


def test_scores_of_a_language_model_are_those_of_its_chat_template(http: httpx.Client, folder: Path) -> None:
    reference = test_logit_score.theirs(folder / "language")
    query, documents = test_logit_score.QUERY, list(test_logit_score.DOCUMENTS)
    answer = http.post("/v1/score", json={"model": "language", "text_1": query, "text_2": documents}).json()
    np.testing.assert_allclose([item["score"] for item in answer["data"]], reference, atol=2e-5)
    answer = http.post("/rerank", json={"model": "language", "query": query, "texts": documents}).json()
    assert [item["index"] for item in answer] == best_first(reference)
    np.testing.assert_allclose([item["score"] for item in answer], sorted(reference, reverse=True), atol=2e-5)


def test_scores_of_a_language_model_are_those_of_flag_embedding(http: httpx.Client, folder: Path) -> None:
    _, reference = test_flag_reranker.theirs(folder / "flag")
    for (query, passage), expected in zip(test_flag_reranker.PAIRS, reference, strict=True):
        body = {"model": "flag", "query": query, "texts": [passage], "truncate": True, "raw_scores": True}
        [answer] = http.post("/rerank", json=body).json()
        assert answer["score"] == pytest.approx(expected, abs=2e-5), (query, passage)


# Labels ---------------------------------------------------------------------------------------------------------------


def logits_of(folder: Path, rows: list[list[str]]) -> np.ndarray[Any, Any]:
    """Return the logits of transformers' model for rows of one or two texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    logits = []
    for row in rows:
        encoded = tokenizer(*row, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        with torch.no_grad():
            logits.append(model(**encoded).logits[0].numpy())
    return np.stack(logits)


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        (TEXTS[0], [[TEXTS[0]]]),
        ([QUERY, TEXTS[0]], [[QUERY, TEXTS[0]]]),
        ([[text] for text in TEXTS], [[text] for text in TEXTS]),
        ([[TEXTS[0]], [QUERY, TEXTS[3]], [TEXTS[4]]], [[TEXTS[0]], [QUERY, TEXTS[3]], [TEXTS[4]]]),
    ],
    ids=["a text", "a pair", "a batch of texts", "a mixed batch"],
)
@pytest.mark.parametrize("raw", [False, True])
def test_labels(http: httpx.Client, folder: Path, inputs: Any, rows: list[list[str]], raw: bool) -> None:
    response = http.post("/predict", json={"model": "classifier", "inputs": inputs, "raw_scores": raw})
    answer = response.json()
    batch = [answer] if isinstance(answer[0], dict) else answer
    assert isinstance(answer[0], dict) == (inputs in (TEXTS[0], [QUERY, TEXTS[0]]))
    logits = logits_of(folder / "classifier", rows)
    reference = logits if raw else torch.softmax(torch.from_numpy(logits), 1).numpy()
    for row, values in zip(batch, reference, strict=True):
        order = best_first(values)
        assert [prediction["label"] for prediction in row] == [f"LABEL_{index}" for index in order]
        np.testing.assert_allclose([prediction["score"] for prediction in row], values[order], atol=1e-5)
    assert len(response.headers["x-tokens-seen"].split(",")) == len(rows)


def test_a_single_label_is_a_sigmoid(http: httpx.Client, folder: Path) -> None:
    ((prediction,),) = http.post("/predict", json={"model": "reranker", "inputs": [[TEXTS[0]]]}).json()
    logit = logits_of(folder / "reranker", [[TEXTS[0]]])[0, 0]
    assert prediction["score"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_huggingface_hub_classifies_a_text(http: httpx.Client) -> None:
    found: Any = InferenceClient(f"{http.base_url}/predict").text_classification(TEXTS[0])
    best, *_ = http.post("/predict", json={"inputs": TEXTS[0]}).json()
    assert (found.label, found.score) == (best["label"], best["score"])  # the client returns the best label alone


# Errors ---------------------------------------------------------------------------------------------------------------

DOCUMENTED = {"model": "reranker", "query": QUERY, "documents": TEXTS}

REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("/v1/rerank", DOCUMENTED | {"documents": []}, 400, "documents is an empty list"),
    ("/v1/rerank", DOCUMENTED | {"documents": ["a"] * 513}, 400, "documents has 513 items"),
    ("/v1/rerank", DOCUMENTED | {"documents": [{"title": "a"}]}, 400, "documents[0]"),
    ("/v1/rerank", DOCUMENTED | {"top_n": 0}, 400, "top_n"),
    ("/v1/rerank", DOCUMENTED | {"max_tokens_per_doc": MAX_TOKENS - 1}, 400, "max_tokens_per_doc is 23"),
    (
        "/v1/rerank",
        DOCUMENTED | {"max_chunks_per_doc": 2},
        400,
        "max_chunks_per_doc is 2: a document is always one chunk",
    ),
    ("/v1/rerank", DOCUMENTED | {"rank_fields": ["title"]}, 400, "rank_fields is ['title']"),
    ("/v1/rerank", DOCUMENTED | {"instruction": "find"}, 400, "instruction"),
    ("/v1/rerank", DOCUMENTED | {"top_k": 1, "top_n": 2}, 400, "top_k is 1, but top_n is 2"),
    ("/v1/rerank", DOCUMENTED | {"truncation": False}, 400, "documents[4] has"),
    ("/rerank", {"model": "reranker", "query": QUERY, "texts": TEXTS, "truncate": False}, 413, "texts[4] has"),
    ("/v1/score", {"model": "reranker", "text_1": TEXTS, "text_2": QUERY, "truncate": False}, 400, "text_1[4] has"),
    (
        "/predict",
        {"model": "classifier", "inputs": [["w1"], ["w1", "w2"], [TEXTS[4]]], "truncate": False},
        413,
        "inputs[2] has",
    ),
    ("/predict", {"model": "classifier", "inputs": TEXTS[4], "truncate": False}, 413, "inputs has"),
    ("/v1/rerank", DOCUMENTED | {"model": "classifier"}, 400, "use /predict"),
    ("/v1/rerank", DOCUMENTED | {"model": "embedder"}, 400, "embedder returns vectors, but this route needs scores"),
    ("/v2/rerank", DOCUMENTED | {"model": "reranker@7"}, 404, "'reranker@7' is not served here"),
    ("/rerank", {"query": QUERY}, 422, "exactly one of texts and documents"),
    ("/rerank", DOCUMENTED | {"texts": TEXTS}, 422, "exactly one of texts and documents"),
    ("/v1/score", {"model": "reranker", "text_1": "a"}, 400, "exactly one of text_2 and documents"),
    (
        "/v1/score",
        {"model": "reranker", "text_1": ["a", "b"], "text_2": ["c", "d", "e"]},
        400,
        "text_2 has 3: send one text",
    ),
    ("/predict", {"model": "classifier", "inputs": []}, 400, "inputs is an empty list"),
    ("/predict", {"model": "classifier", "inputs": ["a", "b", "c"]}, 422, "inputs has 3 texts"),
    ("/predict", {"model": "classifier", "inputs": [["a"], "b"]}, 422, "mixes strings and lists"),
    ("/predict", {"model": "classifier", "inputs": [["a"], []]}, 400, "inputs[1] is an empty list"),
    ("/predict", {"model": "embedder", "inputs": "a"}, 400, "embedder returns vectors"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), REFUSED)
def test_refusals_name_the_field(http: httpx.Client, path: str, body: dict[str, Any], status: int, words: str) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json().get("error", answer.json())
    assert words in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_errors_have_the_fields_of_cohere_jina_and_voyage(http: httpx.Client, path: str) -> None:
    """Cohere's clients read `message`, voyageai and llama-index's JinaRerank read `detail`."""
    error = http.post(path, json=DOCUMENTED | {"documents": []}).json()
    assert error["message"] == error["detail"]
    assert error["message"].startswith("documents is an empty list")
    assert error["id"]


def test_an_unknown_name_means_the_first_reranker_if_there_is_a_default_model(
    http: httpx.Client, scores: np.ndarray[Any, Any]
) -> None:
    answer = http.post("/v2/rerank", json=DOCUMENTED | {"model": "rerank-english-v3.0"}).json()
    check(answer["results"], scores, len(TEXTS))
    assert answer["model"] == "reranker"


def test_a_limit_of_tokens_that_changes_nothing_is_accepted(http: httpx.Client, scores: np.ndarray[Any, Any]) -> None:
    answer = http.post("/v2/rerank", json=DOCUMENTED | {"max_tokens_per_doc": 4096})  # the default of Cohere
    check(answer.json()["results"], scores, len(TEXTS))


def test_scores_are_sigmoids_or_logits() -> None:
    logits = np.array([-3.0, 0.0, 4.5], np.float32)
    sigmoids = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    np.testing.assert_allclose(sigmoid_scores(logits, "identity", raw=False), sigmoids, rtol=1e-6)
    np.testing.assert_allclose(sigmoid_scores(sigmoids, "sigmoid", raw=True), logits, atol=1e-4)
    np.testing.assert_array_equal(sigmoid_scores(logits, "identity", raw=True), logits)
    assert np.isfinite(sigmoid_scores(np.array([0.0, 1.0], np.float32), "sigmoid", raw=True)).all()
