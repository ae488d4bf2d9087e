"""Haystack: components in this process and by a server, in pipelines that are saved."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

from fletcher import Encoder
from fletcher.integrations.haystack import FletcherDocumentEmbedder, FletcherRanker, FletcherTextEmbedder
from fletcher.runtime.errors import InputError

from ...clients.reference import DOCUMENTS, QUERY
from ..conftest import LOAD, TEXTS, Tiny, close

pytestmark = pytest.mark.slow


def test_vectors_are_the_references(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    source = sources["embedder"]["source"]
    embedder, documents = FletcherTextEmbedder(source), [Document(content=text) for text in TEXTS]
    embedder.warm_up()
    close([embedder.run(text)["embedding"] for text in TEXTS], tiny.queries)
    answer = FletcherDocumentEmbedder(source).run(documents)
    close([document.embedding for document in answer["documents"]], tiny.documents)
    assert [document.id for document in answer["documents"]] == [document.id for document in documents]
    assert documents[0].embedding is None
    assert answer["meta"]["model"] in ("embedder", "prompted-checkpoint")
    with pytest.raises(InputError, match="one text"):
        embedder.run(TEXTS)
    with pytest.raises(InputError, match="list of documents"):
        FletcherDocumentEmbedder(source).run("text")


def test_fields_of_meta_are_embedded(tiny: Tiny) -> None:
    titled = Document(content="password?", meta={"title": "How do I reset my", "other": "x"})
    embedder = FletcherDocumentEmbedder(
        str(tiny.embedder), meta_fields_to_embed=["title", "missing"], embedding_separator=" "
    )
    close(embedder.run([titled])["documents"][0].embedding, tiny.documents[1])


def test_documents_are_ranked(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    documents = [Document(content=text) for text in DOCUMENTS]
    ranker = FletcherRanker(sources["reranker"]["source"], top_k=3)
    ranked = ranker.run(QUERY, documents)["documents"]
    assert [document.content for document in ranked] == [DOCUMENTS[index] for index in tiny.order[:3]]
    close([document.score for document in ranked], tiny.scores[tiny.order[:3]])
    assert len(ranker.run(QUERY, documents, top_k=1)["documents"]) == 1
    assert ranker.run(QUERY, [])["documents"] == []
    with pytest.raises(InputError, match="top_k is 0"):
        ranker.run(QUERY, documents, top_k=0)


def test_a_pipeline_is_saved_and_opened(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    documents = [Document(content=text) for text in TEXTS]
    store.write_documents(FletcherDocumentEmbedder(sources["embedder"]["source"]).run(documents)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", FletcherTextEmbedder(sources["embedder"]["source"]))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=3))
    pipeline.add_component("ranker", FletcherRanker(sources["reranker"]["source"]))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    pipeline.connect("retriever", "ranker")
    modules = {"allowed_modules": ["fletcher.integrations.haystack"]}  # since Haystack 3
    allowed: Any = modules if "allowed_modules" in inspect.signature(Pipeline.loads).parameters else {}
    again = Pipeline.loads(pipeline.dumps(), **allowed)
    for one in (pipeline, again):
        embedding = one.get_component("embedder").run(TEXTS[0])["embedding"]
        close(embedding, tiny.queries[0])
    answer = pipeline.run(
        {"embedder": {"text": TEXTS[0]}, "ranker": {"query": QUERY}}, include_outputs_from={"retriever"}
    )
    right = tiny.documents @ tiny.queries[0]
    found = [document.content for document in answer["retriever"]["documents"]]
    assert found == [TEXTS[index] for index in (-right).argsort()]
    assert len(answer["ranker"]["documents"]) == 3


def test_what_cannot_be_saved_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with Encoder.load(tiny.embedder, LOAD) as encoder, pytest.raises(InputError, match="saved with the folder"):
        FletcherTextEmbedder(encoder).to_dict()
    with pytest.raises(InputError, match="saved with the folder"):
        FletcherTextEmbedder(str(tiny.embedder), load=LOAD).to_dict()
    monkeypatch.setenv("FLETCHER_KEY", "secret")
    keyed = FletcherTextEmbedder("http://127.0.0.1:1", api_key=Secret.from_env_var("FLETCHER_KEY"))
    assert "secret" not in str(keyed.to_dict())
    assert FletcherTextEmbedder.from_dict(keyed.to_dict()).to_dict() == keyed.to_dict()
