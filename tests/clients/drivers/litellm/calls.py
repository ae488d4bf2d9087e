"""Calls of LiteLLM: embeddings and rankings through each provider that Fletcher's APIs have."""

from __future__ import annotations

from typing import Any

import litellm
from harness import DOCUMENTS, QUERY, TEXTS, call, report


def vectors(answer: Any) -> Any:
    return [item["embedding"] for item in answer.data]


def ranks(answer: Any) -> Any:
    return [(result["index"], result["relevance_score"]) for result in answer.results]


@call("embedding, openai/")
def openai() -> Any:
    return vectors(litellm.embedding("openai/minilm", input=TEXTS, api_base="http://localhost:8080/v1", api_key="none"))


@call("aembedding, openai/")
async def openai_asynchronous() -> Any:
    return vectors(
        await litellm.aembedding("openai/minilm", input=TEXTS, api_base="http://localhost:8080/v1", api_key="none")
    )


@call("embedding(encoding_format=None), openai/")
def null() -> Any:
    answer = litellm.embedding(
        "openai/minilm", input=TEXTS, encoding_format=None, api_base="http://localhost:8080/v1", api_key="none"
    )
    return vectors(answer)


@call('embedding(encoding_format="float"), openai/')
def floats() -> Any:
    answer = litellm.embedding(
        "openai/minilm", input=TEXTS, encoding_format="float", api_base="http://localhost:8080/v1", api_key="none"
    )
    return vectors(answer)


@call("embedding, hosted_vllm/")
def vllm() -> Any:
    return vectors(
        litellm.embedding("hosted_vllm/minilm", input=TEXTS, api_base="http://localhost:8080/v1", api_key="none")
    )


@call("embedding, azure/")
def azure() -> Any:
    answer = litellm.embedding(
        "azure/minilm", input=TEXTS, api_base="http://localhost:8080", api_key="none", api_version="2024-10-21"
    )
    return vectors(answer)


@call("embedding, ollama/")
def ollama() -> Any:
    return vectors(litellm.embedding("ollama/minilm", input=TEXTS, api_base="http://localhost:8080", api_key="none"))


@call("embedding, cohere/")
def cohere() -> Any:
    answer = litellm.embedding(
        "cohere/minilm",
        input=TEXTS,
        input_type="search_document",
        api_base="http://localhost:8080/v2/embed",
        api_key="none",
    )
    return vectors(answer)


@call("embedding, voyage/")
def voyage() -> Any:
    answer = litellm.embedding(
        "voyage/minilm", input=TEXTS, api_base="http://localhost:8080/v1/embeddings", api_key="none"
    )
    return vectors(answer)


@call("embedding, jina_ai/")
def jina() -> Any:
    return vectors(
        litellm.embedding("jina_ai/minilm", input=TEXTS, api_base="http://localhost:8080/v1", api_key="none")
    )


def rerank(provider: str, **options: Any) -> Any:
    answer = litellm.rerank(
        f"{provider}/reranker",
        query=QUERY,
        documents=DOCUMENTS,
        api_base="http://localhost:8080",
        api_key="none",
        **options,
    )
    return ranks(answer)


for provider in ("cohere", "jina_ai", "voyage", "hosted_vllm", "huggingface"):
    call(f"rerank, {provider}/", "ranking")(lambda provider=provider: rerank(provider))
    call(f"rerank(top_n=2), {provider}/", "ranking of 2")(lambda provider=provider: rerank(provider, top_n=2))
call("rerank(return_documents=False), infinity/", "ranking")(lambda: rerank("infinity", return_documents=False))


@call("arerank, cohere/", "ranking")
async def rerank_asynchronous() -> Any:
    answer = await litellm.arerank(
        "cohere/reranker", query=QUERY, documents=DOCUMENTS, api_base="http://localhost:8080", api_key="none"
    )
    return ranks(answer)


report()
