"""Calls of txtai, which embeds through LiteLLM."""

from __future__ import annotations

from typing import Any

from harness import TEXTS, call, report
from txtai import Embeddings


def embeddings() -> Embeddings:
    return Embeddings(
        path="openai/minilm", method="litellm", vectors={"api_base": "http://localhost:8080/v1", "api_key": "none"}
    )


@call("Embeddings.batchtransform")
def batch() -> Any:
    return [vector.tolist() for vector in embeddings().batchtransform(TEXTS)]


@call("Embeddings.transform", "vectors of one text")
def single() -> Any:
    return [embeddings().transform(TEXTS[0]).tolist()]


@call("Embeddings.index and search", "most similar 2")
def search() -> Any:
    index = embeddings()
    index.index(TEXTS[1:])
    return index.search(TEXTS[0], 2)


report()
