"""`TokenEstimate`: predicted tokens follow the tokens of the texts that a model received."""

from __future__ import annotations

import pytest

from fletcher.runtime import Encodings
from fletcher.serve.engine.engine import INLINE_CHARACTERS, Engine
from fletcher.serve.engine.fairness.token_estimate import TokenEstimate
from fletcher.serve.engine.price import price_of

from ...fake_encoder import FakeEncoder, info, request_for

SECONDS = 10.0


def test_the_first_estimate_is_two_characters_per_token() -> None:
    assert TokenEstimate().ratio == 0.5


def test_large_requests_determine_the_ratio() -> None:
    estimate = TokenEstimate()
    estimate.learn(400_000, 1000, 102_000)  # 100,000 words of four characters, and two special tokens for each text
    assert estimate.ratio * (400_000 + 8 * 1000) == pytest.approx(102_000, rel=0.01)


def test_new_texts_replace_old_ones() -> None:
    estimate = TokenEstimate()
    for _ in range(20):
        estimate.learn(1 << 20, 1, 1 << 18)
    for _ in range(8):
        estimate.learn(1 << 20, 1, 1 << 20)
    assert estimate.ratio == pytest.approx(1.0, rel=0.02)


def test_an_engine_predicts_the_tokens_of_its_texts() -> None:
    # A token for each character, and two special tokens: the price before the first text is too low.
    texts = [f"{number:08}" for number in range(INLINE_CHARACTERS)]
    request = request_for(texts)
    tokens = Encodings.from_lists([[0] * 10] * len(texts)).num_tokens
    assert price_of(request, info()).tokens == pytest.approx(0.8 * tokens, rel=0.01)
    with Engine(FakeEncoder()) as engine:
        engine.submit(request).result(SECONDS)
        assert price_of(request, info(), engine._estimate.ratio).tokens == pytest.approx(tokens, rel=0.05)
