"""Calls of LightRAG's functions for embeddings and rankings."""

from __future__ import annotations

from functools import partial
from typing import Any

from harness import DOCUMENTS, QUERY, TEXTS, call, report
from lightrag.llm.jina import jina_embed
from lightrag.llm.ollama import ollama_embed
from lightrag.llm.openai import openai_embed
from lightrag.rerank import cohere_rerank, jina_rerank
from lightrag.utils import EmbeddingFunc


@call("EmbeddingFunc of openai_embed")
async def openai() -> Any:
    function = EmbeddingFunc(
        embedding_dim=384,
        func=partial(openai_embed.func, model="minilm", base_url="http://localhost:8080/v1", api_key="none"),
    )
    return (await function(TEXTS)).tolist()


@call("EmbeddingFunc of ollama_embed")
async def ollama() -> Any:
    function = EmbeddingFunc(
        embedding_dim=384,
        func=partial(ollama_embed.func, embed_model="minilm", host="http://localhost:8080", api_key="none"),
    )
    return (await function(TEXTS)).tolist()


@call("jina_embed", "query in 16 dimensions")
async def jina() -> Any:
    vectors = await jina_embed.func(
        TEXTS,
        model="prompted",
        embedding_dim=16,
        base_url="http://localhost:8080/v1/embeddings",
        api_key="none",
        task="retrieval.query",
    )
    return vectors.tolist()


def ranks(results: Any) -> Any:
    return [(result["index"], result["relevance_score"]) for result in results]


@call("cohere_rerank", "ranking")
async def rank_cohere() -> Any:
    return ranks(
        await cohere_rerank(
            QUERY, DOCUMENTS, model="reranker", base_url="http://localhost:8080/v2/rerank", api_key="none"
        )
    )


@call("jina_rerank(top_n=2)", "ranking of 2")
async def rank_jina() -> Any:
    results = await jina_rerank(
        QUERY, DOCUMENTS, top_n=2, model="reranker", base_url="http://localhost:8080/v1/rerank", api_key="none"
    )
    return ranks(results)


report()
