"""Chroma: collections with the embedding function, which another client opens again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chromadb")

import chromadb
from chromadb.utils.embedding_functions import known_embedding_functions

from fletcher.integrations.chroma import FletcherEmbeddingFunction
from fletcher.runtime.errors import InputError

from ..conftest import TEXTS, Tiny, close

pytestmark = pytest.mark.slow


def test_vectors_are_the_references(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    function = FletcherEmbeddingFunction(sources["embedder"]["source"])
    close(function(TEXTS), tiny.documents)
    close(function.embed_query(TEXTS), tiny.queries)
    assert not function.is_legacy()
    assert known_embedding_functions["fletcher"] is FletcherEmbeddingFunction


def test_a_collection_is_opened_again_with_its_model(
    sources: dict[str, dict[str, Any]], tiny: Tiny, tmp_path: Path
) -> None:
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings=settings)
    function = FletcherEmbeddingFunction(sources["embedder"]["source"])
    collection = client.create_collection("texts", embedding_function=function)
    collection.add(ids=["0", "1", "2"], documents=TEXTS)
    chromadb.api.client.SharedSystemClient.clear_system_cache()
    again = chromadb.PersistentClient(str(tmp_path), settings=settings).get_collection("texts")
    close(again.get(ids=["0", "1", "2"], include=["embeddings"])["embeddings"], tiny.documents)
    found = again.query(query_texts=[TEXTS[0]], n_results=3)
    distances = 1 - tiny.documents @ tiny.queries[0]  # of vectors of length 1
    assert found["ids"][0] == [str(index) for index in distances.argsort()]
    close(found["distances"][0], sorted(distances))


def test_the_key_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHER_KEY", "secret")
    function = FletcherEmbeddingFunction("http://127.0.0.1:1", "minilm", "FLETCHER_KEY")
    assert function.get_config() == {
        "model": "http://127.0.0.1:1",
        "name": "minilm",
        "api_key_env_var": "FLETCHER_KEY",
    }
    monkeypatch.delenv("FLETCHER_KEY")
    with pytest.raises(InputError, match="FLETCHER_KEY is not set"):
        FletcherEmbeddingFunction("http://127.0.0.1:1", api_key_env_var="FLETCHER_KEY")
