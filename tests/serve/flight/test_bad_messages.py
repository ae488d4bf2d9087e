"""Streams that pyarrow's client would not send: a schema that changes during the stream, broken messages, mutated calls."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest

from fletcher.serve.server import Server

from ..fake_encoder import FakeEncoder, expected
from ..http.mutations import LEAK, mutate_flight
from .raw_flight import call, data, descriptor, exchange, messages, stream

SECONDS = 10.0
EMBED = descriptor(path=[b"embed"])
TEXTS = pa.record_batch({"text": ["ab", "cd"]})
OTHER = pa.record_batch({"page": pa.array([1], pa.int64()), "text": ["ef"]})


@pytest.fixture
def channel(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(str(server.addresses.flight).removeprefix("grpc://")) as opened:
        yield opened


def refused(channel: Any, parts: list[bytes]) -> tuple[str, str]:
    """Return the status code and the message of the error that ends a stream."""
    with pytest.raises(grpc.RpcError) as caught:
        exchange(channel, parts, timeout=SECONDS)
    words = caught.value.details() or ""
    assert not LEAK.search(words.encode())
    return caught.value.code().name, words


def test_the_grpc_client_speaks_flight(channel: Any) -> None:
    answers = exchange(channel, stream(TEXTS.schema, [TEXTS, TEXTS], EMBED), timeout=SECONDS)
    assert len(answers) == 3
    assert expected("cd").tobytes() in answers[1]


def test_a_schema_that_changes_during_a_stream_is_an_invalid_argument(channel: Any) -> None:
    parts = [*stream(TEXTS.schema, [TEXTS], EMBED), *(data(*part) for part in messages(OTHER.schema, [OTHER]))]
    code, words = refused(channel, parts)
    assert code == "INVALID_ARGUMENT"
    assert "the stream could not be read" in words and "not RecordBatch" in words


def test_a_batch_with_another_schema_is_an_invalid_argument(channel: Any) -> None:
    numbers = pa.record_batch({"page": pa.array([1, 2], pa.int64())})
    parts = [*stream(TEXTS.schema, [TEXTS], EMBED), data(*[*messages(numbers.schema, [numbers])][1])]
    code, words = refused(channel, parts)
    assert code == "INVALID_ARGUMENT"
    assert "the stream could not be read" in words


def test_a_column_name_that_is_not_utf8_is_an_invalid_argument(channel: Any) -> None:
    parts = [part.replace(b"text", b"te\x96t") for part in stream(TEXTS.schema, [TEXTS], EMBED)]
    code, words = refused(channel, parts)
    assert code == "INVALID_ARGUMENT"
    assert "not UTF-8" in words


def test_texts_that_are_not_utf8_are_an_invalid_argument(channel: Any) -> None:
    parts = [part.replace(b"abcd", b"ab\xff\xfe") for part in stream(TEXTS.schema, [TEXTS], EMBED)]
    code, _ = refused(channel, parts)
    assert code == "INVALID_ARGUMENT"


def test_mutated_calls(channel: Any, server: Server, fake_encoder: FakeEncoder) -> None:
    chance = random.Random(7)
    codes = set()
    for _ in range(400):
        message = mutate_flight(chance)
        try:
            if message.streams:
                exchange(channel, message.parts, timeout=SECONDS, method=message.method)
            else:
                call(channel, message.method, message.parts[0], timeout=SECONDS)
            codes.add("OK")
        except grpc.RpcError as error:
            code, words = error.code().name, error.details() or ""
            codes.add(code)
            assert code not in ("DEADLINE_EXCEEDED", "UNAVAILABLE"), message
            # gRPC itself returns INTERNAL without a message for bytes that are not a protocol buffer.
            assert code != "INTERNAL" or not words, (message, words)
            assert not LEAK.search(words.encode()), (message, words)
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= codes
    assert len(exchange(channel, stream(TEXTS.schema, [TEXTS], EMBED), timeout=SECONDS)) == 2
    assert server.models.open_requests == 0
