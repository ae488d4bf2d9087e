"""Calls of Ollama's Python client."""

from __future__ import annotations

from typing import Any

from harness import TEXTS, call, report
from ollama import AsyncClient, Client

client = Client(host="http://localhost:8080", headers={"Authorization": "Bearer none"})


@call("embed")
def embed() -> Any:
    return client.embed(model="minilm", input=TEXTS).embeddings


@call("embeddings of one text", "vectors of one text")
def single() -> Any:
    return [client.embeddings(model="minilm", prompt=TEXTS[0]).embedding]


@call("embed without texts", "nothing")
def load() -> Any:
    return client.embed(model="minilm").embeddings


@call("AsyncClient.embed")
async def asynchronous() -> Any:
    return (
        await AsyncClient(host="http://localhost:8080", headers={"Authorization": "Bearer none"}).embed(
            model="minilm", input=TEXTS
        )
    ).embeddings


@call("list", "names")
def names() -> Any:
    return [model.model for model in client.list().models]


report()
