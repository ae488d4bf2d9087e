"""Mutated messages for tests of HTTP and Flight, and the texts that an answer must not have."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ..flight.raw_flight import data, descriptor, field, messages

__all__ = ["LEAK", "FlightMessage", "mutate", "mutate_bytes", "mutate_flight"]

HTTP_BODY = json.dumps({"model": "fake-model", "input": "ab"}).encode()

#: Paths and bodies of the APIs of other servers.
FOREIGN = {
    "/v1/rerank": {"query": "a", "documents": ["b", {"text": "c"}], "top_k": 1, "truncation": True},
    "/v1/score": {"text_1": "a", "text_2": ["b"]},
    "/predict": {"inputs": [["a"], ["b", "c"]]},
    "/v1/embed": {"texts": ["ab"], "images": None},
    "/api/embed": {"model": "fake", "input": ["ab"], "options": {"num_ctx": 16}},
    "/openai/deployments/fake/embeddings?api-version=1": {"input": "ab", "task": "passage", "encoding_format": None},
}

HTTP_SEEDS = [
    b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(HTTP_BODY)
    + HTTP_BODY,
    b'POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16\r\n\r\n{"inputs": "ab"}',
    b'POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-length: 31\r\n\r\n{"query": "a", "texts": ["b"]} ',
    b'POST /tokenize HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n10\r\n{"inputs": "ab"}\r\n0\r\n\r\n',
    b"POST /v2/embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 67\r\n\r\n"
    b'{"model": "fake", "input_type": "search_query", "texts": ["a text"]}',
    b"POST /encode?dtype=int8 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n\x81bab",
    b"POST /encode/arrow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\n\r\n\xff\xff\xff\xff\x10\0\0\0",
    b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    % len(gzip.compress(HTTP_BODY))
    + gzip.compress(HTTP_BODY),
    *[
        b"POST %s HTTP/1.1\r\nhost: localhost\r\napi-key: k\r\ncontent-length: %d\r\n\r\n%s"
        % (path.encode(), len(body), body)
        for path, body in ((path, json.dumps(body).encode()) for path, body in FOREIGN.items())
    ],
    b"GET /v1/models/fake HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\r\n\r\n",
    b"GET /info HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"POST /admin/models HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n"
    b'{"path": "/"}',
]
PIECES = [
    b"",
    b"\0",
    b"\r\n",
    b"\r\n\r\n",
    b"\xff",
    b'"',
    b"{",
    b"[",
    b"null",
    b"1e999",
    b"-1",
    b"\\ud800",
    b"a" * 3000,
    b"%00",
    b"..",
]
#: Texts that an answer must not have: stack traces, paths of the code, Python classes.
LEAK = re.compile(rb"Traceback|\.py\b|site-packages|/work/|/home/|object at 0x|Error\(")


def mutate_bytes(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a seed with one to four changes: bytes inserted, removed or changed, or the end of another seed."""
    message = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(message) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            message[place:place] = chance.choice(PIECES)
        elif kind == 1:
            del message[place : place + chance.randint(1, 8)]
        elif kind == 2 and place < len(message):
            message[place] = chance.randrange(256)
        else:
            other = chance.choice(seeds)
            message[place:] = other[chance.randrange(len(other)) :]
    return bytes(message)


def mutate(chance: random.Random) -> bytes:
    """Return a mutated HTTP request."""
    return mutate_bytes(chance, HTTP_SEEDS)


@dataclass(frozen=True)
class FlightMessage:
    """A call of Flight.

    Attributes:
        method: method of the service.
        parts: messages to send; only one if the method does not take a stream.
    """

    method: str
    parts: list[bytes]

    @property
    def streams(self) -> bool:
        """Return True if the method takes a stream."""
        return self.method in ("DoExchange", "DoPut")


TEXTS = [
    pa.record_batch({"text": ["a text", "another"], "page": pa.array([1, 2], pa.int32())}),
    pa.record_batch({"text": pa.array(["ab", "cd", "ab"]).dictionary_encode()}),
    pa.record_batch({"text": pa.array(["a view", "x" * 40], pa.string_view())}),
    pa.record_batch({"text": pa.array(["ab"], pa.large_string()), "more": pa.array([[1, 2]], pa.list_(pa.int8()))}),
]
COMMANDS = [
    b'{"column": "text", "dimensions": 4, "dtype": "int8", "model": "fake"}',
    b'{"input_type": "query", "compression": "lz4", "overflow": "truncate_left", "normalize": true}',
]
PATHS = [b"embed", b"longbow/docs", b"longbow"]
OPTIONS = [b'{"column": "text"}', b'{"normalize": true, "dtype": "ubinary"}']
TICKETS = [b'{"texts": ["ab", "cd"]}', b'{"texts": ["ab"], "dtype": "float16", "column": "words"}']
ACTIONS = [b"info/", b"health/", b"stats/", b'load/{"path": "/"}', b"unload/none"]


def _maybe(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a seed, with or without changes."""
    return mutate_bytes(chance, seeds) if chance.random() < 0.5 else chance.choice(seeds)


def _described(chance: random.Random) -> bytes:
    """Return a descriptor. Its contents are often invalid, and its frame sometimes."""
    if chance.random() < 0.5:
        content = descriptor(command=_maybe(chance, COMMANDS))
    else:
        content = descriptor(path=_maybe(chance, PATHS).split(b"/"))
    return _framed(chance, content)


def _framed(chance: random.Random, message: bytes) -> bytes:
    """Return a protocol buffer, which is sometimes invalid."""
    return mutate_bytes(chance, [message]) if message and chance.random() < 0.1 else message


def _damage(chance: random.Random, message: bytes) -> bytes:
    """Return a mutated message. Most changes are single bytes, so that later checks of the message also run."""
    if chance.random() < 0.3:
        return mutate_bytes(chance, [message])
    damaged = bytearray(message)
    for _ in range(chance.randint(1, 3)):
        damaged[chance.randrange(len(damaged))] = chance.choice([0, 1, 2, 127, 128, 255, chance.randrange(256)])
    return bytes(damaged)


def mutate_flight(chance: random.Random) -> FlightMessage:
    """Return a call whose options, ticket or stream messages may be invalid."""
    kind = chance.randrange(10)
    if kind < 2:
        return FlightMessage(chance.choice(["GetFlightInfo", "GetSchema"]), [_described(chance)])
    if kind < 4:
        return FlightMessage("DoGet", [_framed(chance, field(1, _maybe(chance, TICKETS)))])
    if kind < 5:
        name, _, body = _maybe(chance, ACTIONS).partition(b"/")
        return FlightMessage("DoAction", [_framed(chance, field(1, name) + field(2, body))])
    batch = chance.choice(TEXTS)
    parts = [*messages(batch.schema, [batch] * chance.randint(1, 3))]
    if chance.random() < 0.2:
        other = chance.choice(TEXTS)
        parts += messages(other.schema, [other])
    described = _described(chance)
    broken = chance.randrange(-1, len(parts))
    stream_parts = []
    for index, (header, body) in enumerate(parts):
        if index == broken and (not body or chance.random() < 0.5):
            header = _damage(chance, header)
        elif index == broken:
            body = _damage(chance, body)
        options = _maybe(chance, OPTIONS) if index == 1 and chance.random() < 0.3 else b""
        stream_parts.append(data(header, body, metadata=options, described=b"" if index else described))
    if chance.random() < 0.3:
        chance.shuffle(stream_parts)
    if chance.random() < 0.1:
        stream_parts[-1] = mutate_bytes(chance, [stream_parts[-1]])
    return FlightMessage(chance.choice(["DoExchange", "DoExchange", "DoExchange", "DoPut"]), stream_parts)
