"""Calls of HuggingFace Hub's Python client, against TEI's routes."""

from __future__ import annotations

from typing import Any

from harness import TEXTS, call, report
from huggingface_hub import AsyncInferenceClient, InferenceClient

client = InferenceClient("http://localhost:8080", token="none")


@call("feature_extraction")
def feature_extraction() -> Any:
    return client.feature_extraction(TEXTS).tolist()


@call("feature_extraction of one text", "vectors of one text")
def single() -> Any:
    return client.feature_extraction(TEXTS[0]).tolist()


@call("feature_extraction(normalize=True, truncate=True)")
def with_options() -> Any:
    return client.feature_extraction(TEXTS, normalize=True, truncate=True).tolist()


@call("feature_extraction(normalize=False)", "pooled")
def pooled() -> Any:
    return client.feature_extraction(TEXTS, normalize=False).tolist()


@call("sentence_similarity", "similarities")
def similarity() -> Any:
    client = InferenceClient("http://localhost:8080/similarity", token="none")
    return client.sentence_similarity(TEXTS[0], TEXTS[1:])


@call("AsyncInferenceClient.feature_extraction")
async def asynchronous() -> Any:
    async with AsyncInferenceClient("http://localhost:8080", token="none") as client:
        return (await client.feature_extraction(TEXTS)).tolist()


report()
