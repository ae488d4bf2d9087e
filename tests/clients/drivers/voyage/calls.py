"""Calls of Voyage's Python client."""

from __future__ import annotations

from typing import Any

import voyageai
from harness import DOCUMENTS, QUERY, TEXTS, call, report

client = voyageai.Client(api_key="none", base_url="http://localhost:8080/v1")


@call("embed")
def embed() -> Any:
    return client.embed(TEXTS, model="minilm").embeddings


@call('embed(input_type="query")', "query")
def queries() -> Any:
    return client.embed(TEXTS, model="prompted", input_type="query").embeddings


@call('embed(input_type="document", output_dimension=16)', "document in 16 dimensions")
def shortened() -> Any:
    return client.embed(TEXTS, model="prompted", input_type="document", output_dimension=16).embeddings


@call("rerank", "ranking")
def rerank() -> Any:
    return ranks(client.rerank(QUERY, DOCUMENTS, model="reranker"))


@call("rerank(top_k=2)", "ranking of 2")
def rerank_two() -> Any:
    return ranks(client.rerank(QUERY, DOCUMENTS, model="reranker", top_k=2))


@call("AsyncClient.embed")
async def asynchronous() -> Any:
    client = voyageai.AsyncClient(api_key="none", base_url="http://localhost:8080/v1")
    return (await client.embed(TEXTS, model="minilm", input_type="document")).embeddings


def ranks(answer: Any) -> list[tuple[int, float]]:
    return [(result.index, result.relevance_score) for result in answer.results]


report()
