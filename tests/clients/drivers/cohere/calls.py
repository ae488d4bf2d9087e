"""Calls of Cohere's Python client, of both versions of its API."""

from __future__ import annotations

from typing import Any

import cohere
from harness import DOCUMENTS, QUERY, TEXTS, call, report

client = cohere.ClientV2(api_key="none", base_url="http://localhost:8080")
first = cohere.Client(api_key="none", base_url="http://localhost:8080")
DOCUMENT = {"input_type": "search_document", "embedding_types": ["float"]}


@call("ClientV2.embed")
def embed() -> Any:
    return client.embed(model="minilm", texts=TEXTS, **DOCUMENT).embeddings.float_


@call('ClientV2.embed(input_type="search_query")', "query")
def embed_queries() -> Any:
    answer = client.embed(model="prompted", texts=TEXTS, input_type="search_query", embedding_types=["float"])
    return answer.embeddings.float_


@call("ClientV2.embed(output_dimension=16)", "document in 16 dimensions")
def embed_shorter() -> Any:
    return client.embed(model="prompted", texts=TEXTS, output_dimension=16, **DOCUMENT).embeddings.float_


@call("ClientV2.rerank", "ranking")
def rerank() -> Any:
    return ranks(client.rerank(model="reranker", query=QUERY, documents=DOCUMENTS))


@call("ClientV2.rerank(top_n=2)", "ranking of 2")
def rerank_two() -> Any:
    return ranks(client.rerank(model="reranker", query=QUERY, documents=DOCUMENTS, top_n=2))


@call("AsyncClientV2.embed")
async def embed_async() -> Any:
    async with cohere.AsyncClientV2(api_key="none", base_url="http://localhost:8080") as client:
        return (await client.embed(model="minilm", texts=TEXTS, **DOCUMENT)).embeddings.float_


@call("AsyncClientV2.rerank", "ranking")
async def rerank_async() -> Any:
    async with cohere.AsyncClientV2(api_key="none", base_url="http://localhost:8080") as client:
        return ranks(await client.rerank(model="reranker", query=QUERY, documents=DOCUMENTS))


@call("Client.embed")
def embed_first() -> Any:
    return first.embed(model="minilm", texts=TEXTS, input_type="search_document").embeddings


@call("Client.embed(embedding_types=…)")
def embed_first_by_type() -> Any:
    return first.embed(model="minilm", texts=TEXTS, **DOCUMENT).embeddings.float_


@call("Client.rerank(return_documents=True)", "ranking")
def rerank_first() -> Any:
    answer = first.rerank(model="reranker", query=QUERY, documents=DOCUMENTS, return_documents=True)
    assert [result.document.text for result in answer.results] == [DOCUMENTS[result.index] for result in answer.results]
    return ranks(answer)


def ranks(answer: Any) -> list[tuple[int, float]]:
    return [(result.index, result.relevance_score) for result in answer.results]


report()
