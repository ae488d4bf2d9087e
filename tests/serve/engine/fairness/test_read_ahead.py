"""`ReadAhead`: a stream reads on until two batches of each worker are in progress, counted in tokens."""

from __future__ import annotations

from fletcher.serve.engine.fairness.read_ahead import ReadAhead

from ...fake_encoder import info

#: 1,000 tokens in a batch and one worker: 2,000 tokens are in progress.
INFO = info(workers=1, token_budget=1000)


def test_two_parts_of_any_size_are_in_progress() -> None:
    ahead = ReadAhead(INFO)
    ahead.begin(["x" * 100_000])
    assert not ahead.full
    ahead.begin(["x" * 100_000])
    assert ahead.full
    ahead.end(25_000)
    assert not ahead.full


def test_small_parts_are_read_until_their_tokens_fill_two_batches() -> None:
    ahead = ReadAhead(INFO)
    parts = 0
    while not ahead.full:
        ahead.begin(["x" * 392])  # with 8 for its special tokens 400 characters, or about 100 tokens
        parts += 1
    assert parts == 20


def test_tokens_are_estimated_from_those_of_earlier_parts() -> None:
    ahead = ReadAhead(INFO)
    ahead.begin(["x" * 392])
    ahead.end(400)  # a token for each character
    parts = 0
    while not ahead.full:
        ahead.begin(["x" * 392])
        parts += 1
    assert parts == 5


def test_the_number_of_parts_is_limited() -> None:
    ahead = ReadAhead(INFO)
    parts = 0
    while not ahead.full:
        ahead.begin([])
        parts += 1
    assert parts == 256
