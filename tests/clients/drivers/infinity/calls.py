"""Calls of infinity's Python client."""

from __future__ import annotations

from typing import Any

from harness import DOCUMENTS, QUERY, TEXTS, call, report
from infinity_client import AuthenticatedClient
from infinity_client.api.default import embeddings, rerank
from infinity_client.models import OpenAIEmbeddingInputText, RerankInput

client = AuthenticatedClient(base_url="http://localhost:8080", token="none")


@call("embeddings")
def embed() -> Any:
    body = OpenAIEmbeddingInputText(model="minilm", input_=TEXTS)
    return [item.embedding for item in embeddings.sync(client=client, body=body).data]


@call("rerank", "ranking")
def rank() -> Any:
    body = RerankInput(model="reranker", query=QUERY, documents=DOCUMENTS)
    return [(result.index, result.relevance_score) for result in rerank.sync(client=client, body=body).results]


report()
