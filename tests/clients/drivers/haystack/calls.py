"""Calls of Haystack's embedders and rankers."""

from __future__ import annotations

from typing import Any

from harness import DOCUMENTS, QUERY, TEXTS, call, report
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.cohere import CohereDocumentEmbedder, CohereTextEmbedder
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from haystack_integrations.components.embedders.jina import JinaDocumentEmbedder, JinaTextEmbedder
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker

KEY = Secret.from_token("none")


def one(embedder: Any) -> Any:
    return [embedder.run(TEXTS[0])["embedding"]]


def many(embedder: Any) -> Any:
    documents = embedder.run([Document(content=text) for text in TEXTS])["documents"]
    return [document.embedding for document in documents]


def ranked(ranker: Any, **options: Any) -> Any:
    documents = ranker.run(query=QUERY, documents=[Document(content=text) for text in DOCUMENTS], **options)
    return [(DOCUMENTS.index(document.content), document.score) for document in documents["documents"]]


@call("OpenAITextEmbedder", "vectors of one text")
def openai_text() -> Any:
    return one(OpenAITextEmbedder(model="minilm", api_base_url="http://localhost:8080/v1", api_key=KEY))


@call("OpenAIDocumentEmbedder")
def openai_documents() -> Any:
    return many(OpenAIDocumentEmbedder(model="minilm", api_base_url="http://localhost:8080/v1", api_key=KEY))


@call("HuggingFaceAPITextEmbedder with its defaults (normalize=False)", "pooled of one text")
def tei_text() -> Any:
    return one(
        HuggingFaceAPITextEmbedder(
            api_type="text_embeddings_inference", api_params={"url": "http://localhost:8080"}, token=KEY
        )
    )


@call("HuggingFaceAPIDocumentEmbedder with its defaults (normalize=False)", "pooled")
def tei_documents() -> Any:
    return many(
        HuggingFaceAPIDocumentEmbedder(
            api_type="text_embeddings_inference", api_params={"url": "http://localhost:8080"}, token=KEY
        )
    )


@call("HuggingFaceAPIDocumentEmbedder(normalize=True)")
def tei_normalized() -> Any:
    embedder = HuggingFaceAPIDocumentEmbedder(
        api_type="text_embeddings_inference", api_params={"url": "http://localhost:8080"}, token=KEY, normalize=True
    )
    return many(embedder)


@call("JinaTextEmbedder", "vectors of one text")
def jina_text() -> Any:
    return one(JinaTextEmbedder(model="minilm", base_url="http://localhost:8080/v1/embeddings", api_key=KEY))


@call('JinaTextEmbedder(task="retrieval.query", dimensions=16)', "query in 16 dimensions of one text")
def jina_query() -> Any:
    embedder = JinaTextEmbedder(
        model="prompted",
        base_url="http://localhost:8080/v1/embeddings",
        api_key=KEY,
        task="retrieval.query",
        dimensions=16,
        late_chunking=False,
    )
    return one(embedder)


@call("JinaDocumentEmbedder")
def jina_documents() -> Any:
    return many(JinaDocumentEmbedder(model="minilm", base_url="http://localhost:8080/v1/embeddings", api_key=KEY))


@call("CohereTextEmbedder", "query of one text")
def cohere_text() -> Any:
    return one(CohereTextEmbedder(model="prompted", api_base_url="http://localhost:8080", api_key=KEY))


@call("CohereDocumentEmbedder", "document")
def cohere_documents() -> Any:
    embedder = CohereDocumentEmbedder(
        model="prompted", api_base_url="http://localhost:8080", api_key=KEY, input_type="search_document"
    )
    return many(embedder)


@call("JinaRanker", "ranking")
def jina_ranker() -> Any:
    return ranked(JinaRanker(model="reranker", base_url="http://localhost:8080/v1/rerank", api_key=KEY))


@call("CohereRanker(top_k=3)", "ranking of 3")
def cohere_ranker() -> Any:
    ranker = CohereRanker(model="reranker", api_base_url="http://localhost:8080", api_key=KEY)
    return ranked(ranker, top_k=3)


@call("HuggingFaceTEIRanker", "ranking")
def tei_ranker() -> Any:
    return ranked(HuggingFaceTEIRanker(url="http://localhost:8080", token=KEY))


report()
