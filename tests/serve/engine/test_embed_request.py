"""`EmbedRequest` is data: it can be encoded, sent, priced and repeated, and its answer does not change."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fletcher.runtime import Encoder
from fletcher.runtime.inputs import Pairs, Texts, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.engine.embed_request import EmbedRequest
from fletcher.serve.engine.engine import Engine
from fletcher.serve.engine.price import Price, answer_bytes, price_of
from fletcher.serve.engine.terms import Terms
from fletcher.serve.errors import TooLargeError
from fletcher.serve.request_limits import check_pairs

from ..fake_encoder import FakeEncoder, info, request_for

SECONDS = 10.0

REQUESTS = [
    request_for(["ab", "", "x" * 20, "ünïcode 🏹"]),
    request_for(["ab"], EmbedOptions(input_type="query", dimensions=4, dtype="int8", normalize=True)),
    request_for(["ab"], terms=Terms("bulk", "someone", time.monotonic() + 3600)),
    EmbedRequest(TokenIds([[5, 6, 7], [8]])),
]
OTHERS = [
    EmbedRequest(Pairs("a question", ("an answer", "another")), output="scores"),
    EmbedRequest(Texts(("ab",)), output="sparse"),
    EmbedRequest(Texts(("ab",)), output="token_vectors"),
]


@pytest.mark.parametrize("request_", [*REQUESTS, *OTHERS], ids=lambda request: str(request.inputs)[:20])
def test_a_request_survives_encoding_and_pickling(request_: EmbedRequest) -> None:
    assert msgspec.json.decode(msgspec.json.encode(request_), type=EmbedRequest) == request_
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request_), type=EmbedRequest) == request_
    assert pickle.loads(pickle.dumps(request_, protocol=5)) == request_


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: str(request.inputs)[:20])
def test_a_decoded_request_has_the_same_answer(request_: EmbedRequest) -> None:
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(request_), type=EmbedRequest)
    with Engine(FakeEncoder()) as engine:
        first, second = (engine.submit(request).result(SECONDS) for request in (request_, sent))
    for field in ("vectors", "tokens", "dropped"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


def test_a_pickled_request_has_the_same_answer_of_a_real_model(minilm_artifact: Path) -> None:
    request = request_for(
        ["A man is eating food.", "a long text " * 300], EmbedOptions(overflow="windows", window_tokens=64)
    )
    sent = pickle.loads(pickle.dumps(request, protocol=5))
    with Encoder.load(minilm_artifact, provider="mlas", workers=1) as encoder, Engine(encoder) as engine:
        first, second = (engine.submit(each).result(60) for each in (request, sent))
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert first.chunks is not None
    np.testing.assert_array_equal(first.chunks.vectors, second.chunks.vectors)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        request_for(["ab"]).output = "scores"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("request_", "price"),
    [
        # 2 characters per token, 4 tokens per row; 4 bytes for each of 8 elements of a row, 8 bytes per token
        (request_for(["abcdef", "gh"]), Price(8, 0, 2, 12, 2 * 8 * 4 + 12 * 8)),
        # a row has at most 16 tokens, the longest input
        (request_for(["a" * 1000]), Price(1000, 0, 1, 16, 8 * 4 + 16 * 8)),
        # windows of 16 tokens, 2 of them special and 2 shared, have 12 new ones: 504 tokens become 504 * 16 / 12, and their
        # 504 / 12 + 1 windows have a vector each, besides that of the text
        (
            request_for(["a" * 1000], EmbedOptions(overflow="windows")),
            Price(1000, 0, 1, 672, (1 + 43) * 8 * 4 + 672 * 8),
        ),
        # late chunking holds a vector for each token, and for each chunk of 256 tokens
        (
            request_for(["a" * 1000], EmbedOptions(overflow="late")),
            Price(1000, 0, 1, 672, (1 + 672 + 2) * 8 * 4 + 672 * 8),
        ),
        # token ids are counted, and truncated to 16
        (EmbedRequest(TokenIds([[1] * 20, [2] * 3])), Price(0, 23, 2, 19, 2 * 8 * 4 + 19 * 8)),
        # every pair includes the query
        (EmbedRequest(Pairs("abcd", ("ef", "gh")), output="scores"), Price(12, 0, 2, 14, 2 * 8 * 4 + 14 * 8)),
        (request_for([]), Price(0, 0, 0, 0, 0)),
    ],
    ids=["texts", "long", "windows", "late", "ids", "pairs", "nothing"],
)
def test_the_price_of_a_request_is_computed_before_any_work(request_: EmbedRequest, price: Price) -> None:
    assert price_of(request_, info()) == price


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (Pairs("a" * ((1 << 18) + 1), ("b",)), "a text of a pair has 262145 characters"),
        (Pairs("a", ("b", "c" * ((1 << 18) + 1))), "a text of a pair has 262145 characters"),
        (Pairs("a" * (1 << 18), ("b",) * 65), "the pairs have 17039425 characters"),  # 65 * (2**18 + 1)
    ],
)
def test_pairs_of_too_many_characters_are_refused(pairs: Pairs, message: str) -> None:
    with pytest.raises(TooLargeError, match=message):
        check_pairs(pairs, price_of(EmbedRequest(pairs, output="scores"), info()).characters)


@pytest.mark.parametrize(
    ("request_", "size"),
    [
        # 3 vectors of 8 float32 values, and three times as much for their JSON
        (request_for(["a", "b", "c"]), 4 * 3 * 8 * 4),
        (EmbedRequest(TokenIds([[1], [2]])), 4 * 2 * 8 * 4),
        # 2,048 * 1,024 vectors: of their JSON only 4 MiB exist at a time
        (EmbedRequest(TokenIds([[1]] * (1 << 18))), (1 << 18) * 8 * 4 + (4 << 20)),
    ],
)
def test_the_bytes_of_an_answer_are_known_before_it_is_computed(request_: EmbedRequest, size: int) -> None:
    assert answer_bytes(request_, info()) == size
