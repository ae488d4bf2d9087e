"""Calls of Semantic Kernel's Python package."""

from __future__ import annotations

from typing import Any

from harness import TEXTS, call, report
from ollama import AsyncClient
from openai import AsyncAzureOpenAI, AsyncOpenAI
from semantic_kernel.connectors.ai.ollama import OllamaTextEmbedding
from semantic_kernel.connectors.ai.open_ai import AzureTextEmbedding, OpenAITextEmbedding


@call("OpenAITextEmbedding.generate_embeddings")
async def openai() -> Any:
    openai_client = AsyncOpenAI(base_url="http://localhost:8080/v1", api_key="none")
    service = OpenAITextEmbedding(ai_model_id="minilm", async_client=openai_client)
    return (await service.generate_embeddings(TEXTS)).tolist()


@call("AzureTextEmbedding.generate_embeddings")
async def azure() -> Any:
    azure_client = AsyncAzureOpenAI(azure_endpoint="http://localhost:8080", api_key="none", api_version="2024-10-21")
    service = AzureTextEmbedding(deployment_name="minilm", async_client=azure_client)
    return (await service.generate_embeddings(TEXTS)).tolist()


@call("OllamaTextEmbedding.generate_embeddings")
async def ollama() -> Any:
    ollama_client = AsyncClient(host="http://localhost:8080", headers={"Authorization": "Bearer none"})
    service = OllamaTextEmbedding(ai_model_id="minilm", client=ollama_client)
    return (await service.generate_embeddings(TEXTS)).tolist()


report()
