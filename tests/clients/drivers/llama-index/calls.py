"""Calls of LlamaIndex's embeddings and rerankers."""

from __future__ import annotations

from typing import Any

from harness import DOCUMENTS, QUERY, TEXTS, call, report
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference


def openai() -> OpenAILikeEmbedding:
    return OpenAILikeEmbedding(model_name="minilm", api_base="http://localhost:8080/v1", api_key="none")


def tei() -> TextEmbeddingsInference:
    return TextEmbeddingsInference(model_name="minilm", base_url="http://localhost:8080", auth_token="none")


def ranked(reranker: Any) -> Any:
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    return [(DOCUMENTS.index(one.node.text), one.score) for one in found]


@call("OpenAILikeEmbedding.get_text_embedding_batch")
def openai_batch() -> Any:
    return openai().get_text_embedding_batch(TEXTS)


@call("OpenAILikeEmbedding.get_query_embedding", "vectors of one text")
def openai_query() -> Any:
    return [openai().get_query_embedding(TEXTS[0])]


@call("OpenAILikeEmbedding.aget_text_embedding_batch")
async def openai_asynchronous() -> Any:
    return await openai().aget_text_embedding_batch(TEXTS)


@call("TextEmbeddingsInference.get_text_embedding_batch")
def tei_batch() -> Any:
    return tei().get_text_embedding_batch(TEXTS)


@call("TextEmbeddingsInference.aget_text_embedding_batch")
async def tei_asynchronous() -> Any:
    return await tei().aget_text_embedding_batch(TEXTS)


@call("OllamaEmbedding.get_text_embedding_batch")
def ollama() -> Any:
    return OllamaEmbedding(
        model_name="minilm",
        base_url="http://localhost:8080",
        client_kwargs={"headers": {"Authorization": "Bearer none"}},
    ).get_text_embedding_batch(TEXTS)


@call("CohereRerank(top_n=3)", "ranking of 3")
def cohere_rerank() -> Any:
    return ranked(CohereRerank(model="reranker", base_url="http://localhost:8080", api_key="none", top_n=3))


@call("JinaRerank(top_n=3)", "ranking of 3")
def jina_rerank() -> Any:
    return ranked(JinaRerank(model="reranker", base_url="http://localhost:8080/v1", api_key="none", top_n=3))


@call("TextEmbeddingInference (reranker, top_n=3)", "ranking of 3")
def tei_rerank() -> Any:
    return ranked(TextEmbeddingInference(base_url="http://localhost:8080", auth_token="Bearer none", top_n=3))


report()
