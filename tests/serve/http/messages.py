"""Random HTTP messages: most are whole, so that they reach the application; their bodies, headers and paths may be wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import cbor2

from ...fuzzing.structures import change_json, damage
from .mutations import FOREIGN, mutate

__all__ = ["Message", "draw_message"]

MODELS: Final = ("fake-model", "fake", "fake-model@1")

#: Share of messages whose frame is damaged, and shares of the whole ones whose body, headers or path are changed.
FRAMES, BODIES, HEADERS, PATHS = 0.15, 0.4, 0.15, 0.05

#: Share of the bodies that are near the limit of the server, and their size in bytes.
LARGE, LARGE_BYTES = 0.01, 900_000

#: Values of headers, of which some are wrong.
WRONG_HEADERS: Final = (
    b"x-request-timeout: 0.5",
    b"x-request-timeout: soon",
    b"x-priority: bulk",
    b"x-priority: urgent",
    b"content-encoding: gzip",
    b"content-encoding: zstd, gzip",
    b"accept: application/x-ndjson",
    b"accept: application/octet-stream",
    b"accept-encoding: gzip, zstd",
    b"content-type: text/plain",
    b"authorization: Bearer \xff",
    b"x-request-id: \x01",
    b"if-space: none",
    b"x-on-truncate: refuse",
    b"expect: 100-continue",
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message.

    Attributes:
        data: its bytes.
        whole: whether its frame is right; the server then answers and closes the connection.
    """

    data: bytes
    whole: bool


def _texts(chance: random.Random) -> Any:
    count = chance.choice([1, 1, 1, 2, 5, 64])
    texts = [chance.choice(["a text", "ab", "é", "x" * 300, "", "poem \U0001f469", "a\nb"]) for _ in range(count)]
    if chance.random() < LARGE:
        texts = ["x" * chance.choice([10, 1000, 100_000])] * (LARGE_BYTES // 200_000)
    return texts[0] if count == 1 and chance.random() < 0.5 else texts


def _openai(chance: random.Random) -> Any:
    body: dict[str, Any] = {"model": chance.choice(MODELS), "input": _texts(chance)}
    options = {
        "dimensions": 4,
        "encoding_format": chance.choice(["base64", "float"]),
        "normalize": True,
        "overflow": "truncate_left",
        "input_type": "query",
        "user": "someone",
    }
    return body | {name: options[name] for name in options if chance.random() < 0.15}


def _cohere(chance: random.Random) -> Any:
    texts = _texts(chance)
    return {"model": "fake", "input_type": "search_query", "texts": [texts] if isinstance(texts, str) else texts}


#: Paths of routes that compute, with functions that draw a right body.
COMPUTING: Final[dict[str, Callable[[random.Random], Any]]] = {
    "/v1/embeddings": _openai,
    "/embed": lambda chance: {"inputs": _texts(chance), "truncate": chance.random() < 0.5},
    "/tokenize": lambda chance: {"inputs": _texts(chance)},
    "/v2/embed": _cohere,
    "/api/embed": lambda chance: {"model": "fake", "input": _texts(chance)},
    "/openai/deployments/fake/embeddings?api-version=1": lambda chance: {"input": _texts(chance)},
}

#: Paths that refuse or describe: another model's routes, and those without a body.
OTHERS: Final[dict[str, Callable[[random.Random], Any]]] = {
    **{path: partial(lambda body, chance: body, body) for path, body in FOREIGN.items()},
    "/rerank": lambda chance: {"query": "a", "texts": ["b"]},
    "/embed_all": lambda chance: {"inputs": _texts(chance)},
    "/admin/models": lambda chance: {"path": "/"},
}
READS: Final = ("/v1/models", "/v1/models/fake", "/info", "/health", "/ready", "/absent", "/openapi.json")


def _body(chance: random.Random, draw: Callable[[random.Random], Any]) -> bytes:
    """Return a body in JSON, which is sometimes changed or damaged."""
    value = draw(chance)
    if chance.random() < BODIES:
        if chance.random() < 0.3:
            return damage(json.dumps(value).encode(), chance)
        value = change_json(value, chance)
    return json.dumps(value).encode()


def draw_message(chance: random.Random) -> Message:
    """Return a message."""
    if chance.random() < FRAMES:
        return Message(mutate(chance), whole=False)
    kind = chance.random()
    headers = [b"host: 127.0.0.1", b"connection: close"]
    if kind < 0.08:
        head, body = b"GET %s HTTP/1.1" % chance.choice(READS).encode(), b""
    elif kind < 0.16:
        head, body = b"POST /encode HTTP/1.1", cbor2.dumps([_texts(chance)] if chance.random() < 0.5 else ["ab", "cd"])
        if chance.random() < BODIES:
            body = damage(body, chance)
    else:
        paths = COMPUTING if kind < 0.85 else OTHERS
        path = chance.choice(list(paths))
        body = _body(chance, paths[path])
        if chance.random() < PATHS:
            path = damage(path.encode(), chance).decode("latin-1")
            path = "/" + "".join(letter for letter in path if 0x20 < ord(letter) < 0x7F)
        head = b"POST %s HTTP/1.1" % path.encode()
        headers.append(b"content-type: application/json")
    if chance.random() < HEADERS:
        headers.append(chance.choice(WRONG_HEADERS))
    if head.startswith(b"POST") and chance.random() < 0.2:
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        headers.append(b"transfer-encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    elif head.startswith(b"POST"):
        headers.append(b"content-length: %d" % len(body))
    return Message(b"\r\n".join([head, *headers, b"", body]), whole=True)
