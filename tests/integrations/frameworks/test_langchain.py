"""LangChain: its standard tests of embeddings, right values in this process and by a server, and a reranking retriever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_tests")

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from fletcher.integrations.langchain import FletcherEmbeddings, FletcherRerank

from ...clients.reference import DOCUMENTS, QUERY
from ..conftest import TEXTS, Tiny, close

pytestmark = pytest.mark.slow


class Standard:
    """Arguments of LangChain's standard tests."""

    source: str

    @pytest.fixture(autouse=True)
    def _source(self, sources: dict[str, dict[str, Any]]) -> None:
        type(self).source = sources["embedder"]["source"]

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return FletcherEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.source}


class TestStandardUnit(Standard, EmbeddingsUnitTests):
    """LangChain's unit tests."""


class TestStandardIntegration(Standard, EmbeddingsIntegrationTests):
    """LangChain's integration tests."""


def test_vectors_are_the_references(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    embeddings = FletcherEmbeddings(sources["embedder"]["source"])
    close(embeddings.embed_documents(TEXTS), tiny.documents)
    close([embeddings.embed_query(text) for text in TEXTS], tiny.queries)
    close(asyncio.run(embeddings.aembed_documents(TEXTS)), tiny.documents)
    assert embeddings.embed_documents([]) == []


def test_a_vector_store_finds_documents_by_queries(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    store = InMemoryVectorStore(FletcherEmbeddings(sources["embedder"]["source"]))
    store.add_texts(TEXTS)
    found = store.similarity_search_with_score(TEXTS[0], k=3)
    right = tiny.documents @ tiny.queries[0]
    assert [document.page_content for document, _ in found] == [TEXTS[index] for index in (-right).argsort()]
    close([score for _, score in found], sorted(right, reverse=True))


def test_documents_are_ranked(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    documents = [Document(text, metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]
    compressor = FletcherRerank(sources["reranker"]["source"], top_n=3)
    for ranked in (
        compressor.compress_documents(documents, QUERY),
        asyncio.run(compressor.acompress_documents(documents, QUERY)),
    ):
        assert [document.metadata["place"] for document in ranked] == tiny.order[:3]
        close([document.metadata["relevance_score"] for document in ranked], tiny.scores[tiny.order[:3]])
    assert "relevance_score" not in documents[0].metadata
    assert len(FletcherRerank(sources["reranker"]["source"], top_n=None).compress_documents(documents, QUERY)) == 4
