"""Calls of Chroma's embedding functions."""

from __future__ import annotations

import os
from typing import Any

import chromadb
from chromadb.utils.embedding_functions import (
    HuggingFaceEmbeddingServer,
    OllamaEmbeddingFunction,
    OpenAIEmbeddingFunction,
)
from harness import TEXTS, call, report


def vectors(function: Any) -> Any:
    return [vector.tolist() for vector in function(TEXTS)]


def openai() -> OpenAIEmbeddingFunction:
    return OpenAIEmbeddingFunction(model_name="minilm", api_base="http://localhost:8080/v1", api_key="none")


@call("OpenAIEmbeddingFunction")
def openai_function() -> Any:
    return vectors(openai())


@call("OllamaEmbeddingFunction")
def ollama() -> Any:
    os.environ["OLLAMA_API_KEY"] = "none"
    return vectors(OllamaEmbeddingFunction(model_name="minilm", url="http://localhost:8080"))


@call("HuggingFaceEmbeddingServer")
def tei() -> Any:
    return vectors(HuggingFaceEmbeddingServer(url="http://localhost:8080/embed", api_key="none"))


@call("collection.add and get, OpenAIEmbeddingFunction")
def collection() -> Any:
    stored = chromadb.EphemeralClient().create_collection("texts", embedding_function=openai())
    identifiers = [str(number) for number in range(len(TEXTS))]
    stored.add(ids=identifiers, documents=TEXTS)
    found = stored.get(ids=identifiers, include=["embeddings"])
    by_id = dict(zip(found["ids"], found["embeddings"].tolist(), strict=True))
    return [by_id[one] for one in identifiers]


report()
