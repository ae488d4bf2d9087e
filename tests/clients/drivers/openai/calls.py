"""Calls of OpenAI's Python client."""

from __future__ import annotations

import base64
import struct
from typing import Any

from harness import TEXTS, call, report
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

client = OpenAI(base_url="http://localhost:8080/v1", api_key="none")
azure = AzureOpenAI(azure_endpoint="http://localhost:8080", api_key="none", api_version="2024-10-21")


@call("embeddings.create")
def default() -> list[list[float]]:
    return vectors(client.embeddings.create(model="minilm", input=TEXTS))


@call("embeddings.create of one text", "vectors of one text")
def single() -> list[list[float]]:
    return vectors(client.embeddings.create(model="minilm", input=TEXTS[0]))


@call('embeddings.create(encoding_format="float")')
def floats() -> list[list[float]]:
    return vectors(client.embeddings.create(model="minilm", input=TEXTS, encoding_format="float"))


@call('embeddings.create(encoding_format="base64")')
def encoded() -> list[list[float]]:
    data: list[Any] = client.embeddings.create(model="minilm", input=TEXTS, encoding_format="base64").data
    rows = [base64.b64decode(item.embedding) for item in data]
    return [list(struct.unpack(f"<{len(row) // 4}f", row)) for row in rows]


@call("embeddings.create(dimensions=16)", "query in 16 dimensions")
def shortened() -> list[list[float]]:
    query = {"input_type": "query"}
    return vectors(client.embeddings.create(model="prompted", input=TEXTS, dimensions=16, extra_body=query))


@call('embeddings.create(extra_body={"input_type": "query"})', "query")
def query() -> list[list[float]]:
    return vectors(client.embeddings.create(model="prompted", input=TEXTS, extra_body={"input_type": "query"}))


@call("AsyncOpenAI: embeddings.create")
async def asynchronous() -> list[list[float]]:
    async with AsyncOpenAI(base_url="http://localhost:8080/v1", api_key="none") as client:
        return vectors(await client.embeddings.create(model="minilm", input=TEXTS))


@call("AzureOpenAI: embeddings.create")
def of_azure() -> list[list[float]]:
    return vectors(azure.embeddings.create(model="minilm", input=TEXTS))


@call("models.list", "names")
def models() -> list[str]:
    return [model.id for model in client.models.list()]


def vectors(answer: Any) -> list[list[float]]:
    return [item.embedding for item in answer.data]


report()
