"""Calls of Semantic Kernel's Python package."""

from __future__ import annotations

from typing import Any

from harness import TEXTS, call, report
from openai import AsyncOpenAI
from semantic_kernel.connectors.ai.ollama import OllamaTextEmbedding
from semantic_kernel.connectors.ai.open_ai import AzureTextEmbedding, OpenAITextEmbedding


@call("OpenAITextEmbedding.generate_embeddings")
async def openai() -> Any:
    client = AsyncOpenAI(base_url="http://localhost:8080/v1", api_key="none")
    service = OpenAITextEmbedding(ai_model_id="minilm", async_client=client)
    return (await service.generate_embeddings(TEXTS)).tolist()


@call("AzureTextEmbedding.generate_embeddings")
async def azure() -> Any:
    service = AzureTextEmbedding(deployment_name="minilm", endpoint="http://localhost:8080", api_key="none")
    return (await service.generate_embeddings(TEXTS)).tolist()


@call("OllamaTextEmbedding.generate_embeddings")
async def ollama() -> Any:
    service = OllamaTextEmbedding(ai_model_id="minilm", host="http://localhost:8080")
    return (await service.generate_embeddings(TEXTS)).tolist()


report()
