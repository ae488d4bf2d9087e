"""Calls of LangChain's Python packages."""

from __future__ import annotations

import os
from importlib.metadata import distribution
from typing import Any

from harness import DOCUMENTS, QUERY, TEXTS, call, report
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from langchain_ollama import OllamaEmbeddings
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings


def openai() -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model="minilm", base_url="http://localhost:8080/v1", api_key="none", check_embedding_ctx_length=False
    )


@call("OpenAIEmbeddings.embed_documents")
def documents() -> Any:
    return openai().embed_documents(TEXTS)


@call("OpenAIEmbeddings.embed_query", "vectors of one text")
def query() -> Any:
    return [openai().embed_query(TEXTS[0])]


@call("OpenAIEmbeddings.aembed_documents")
async def asynchronous() -> Any:
    return await openai().aembed_documents(TEXTS)


@call("OpenAIEmbeddings with its defaults", "refused check_embedding_ctx_length=False")
def defaults() -> Any:
    # The embeddings take OpenAI's vocabulary from the internet; LiteLLM's package has it, too.
    vocabulary = distribution("litellm").locate_file("litellm/litellm_core_utils/tokenizers")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(vocabulary)
    embeddings = OpenAIEmbeddings(model="minilm", base_url="http://localhost:8080/v1", api_key="none")
    return embeddings.embed_documents(["how do I reset my password?", "hello world"])


@call("AzureOpenAIEmbeddings.embed_documents")
def azure() -> Any:
    embeddings = AzureOpenAIEmbeddings(
        model="minilm",
        azure_endpoint="http://localhost:8080",
        api_key="none",
        api_version="2024-10-21",
        check_embedding_ctx_length=False,
    )
    return embeddings.embed_documents(TEXTS)


@call("HuggingFaceEndpointEmbeddings.embed_documents")
def huggingface() -> Any:
    return _huggingface().embed_documents(TEXTS)


@call("HuggingFaceEndpointEmbeddings.aembed_documents")
async def huggingface_asynchronous() -> Any:
    return await _huggingface().aembed_documents(TEXTS)


def _huggingface() -> HuggingFaceEndpointEmbeddings:
    embeddings = HuggingFaceEndpointEmbeddings()
    embeddings.client = InferenceClient("http://localhost:8080", token="none")
    embeddings.async_client = AsyncInferenceClient("http://localhost:8080", token="none")
    return embeddings


@call("OllamaEmbeddings.embed_documents")
def ollama() -> Any:
    return OllamaEmbeddings(
        model="minilm", base_url="http://localhost:8080", client_kwargs={"headers": {"Authorization": "Bearer none"}}
    ).embed_documents(TEXTS)


@call("CohereEmbeddings.embed_documents")
def cohere() -> Any:
    return cohere_embeddings("minilm").embed_documents(TEXTS)


@call("CohereEmbeddings.embed_query", "query of one text")
def cohere_query() -> Any:
    return [cohere_embeddings("prompted").embed_query(TEXTS[0])]


def cohere_embeddings(model: str) -> CohereEmbeddings:
    return CohereEmbeddings(model=model, base_url="http://localhost:8080", cohere_api_key="none")


def cohere_rerank() -> CohereRerank:
    return CohereRerank(model="reranker", base_url="http://localhost:8080", cohere_api_key="none", top_n=3)


@call("CohereRerank.rerank(top_n=3)", "ranking of 3")
def rerank() -> Any:
    return [(result["index"], result["relevance_score"]) for result in cohere_rerank().rerank(DOCUMENTS, QUERY)]


@call("CohereRerank.compress_documents(top_n=3)", "ranking of 3")
def compress() -> Any:
    documents = cohere_rerank().compress_documents([Document(text) for text in DOCUMENTS], QUERY)
    return [(DOCUMENTS.index(one.page_content), one.metadata["relevance_score"]) for one in documents]


report()
