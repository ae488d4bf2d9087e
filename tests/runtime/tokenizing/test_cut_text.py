"""Very long texts: the end that truncation leaves has the ids of the whole text's truncation, without the rest's tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import pre_tokenizers
from tokenizers.processors import TemplateProcessing

from fletcher.convert.texts import SENTENCES
from fletcher.runtime.errors import InputError
from fletcher.runtime.tokenizing import cut_text
from fletcher.runtime.tokenizing import tokenizer as tokenizers_file
from fletcher.runtime.tokenizing.cut_text import LONG
from fletcher.runtime.tokenizing.pairs import encode_pairs
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.runtime.tokenizing.truncation import Side

from .test_tokenizer import HOSTILE, KINDS

pytestmark = pytest.mark.heavy  # by the seconds that it computes

#: Parts of hostile texts: special tokens, marks, blanks of all kinds, texts without a place for a cut.
PARTS = st.lists(
    st.sampled_from(
        [
            *HOSTILE,
            " ",
            "  ",
            ".",
            "\n",
            "[SEP]",
            "<mask>",
            "<s>",
            "面",
            "面" * 30,
            "\u0301",
            "'s",
            "\x85",
            "a",
            " b c d",
        ]
    ),
    max_size=30,
)


@contextmanager
def short(characters: int = 1) -> Iterator[None]:
    """Let texts of some characters be long, and parts small, so that most texts are cut several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers_file, "LONG", characters)
        patch.setattr(cut_text, "CHARACTERS", 1)
        patch.setattr(cut_text, "FEWEST", 1)
        yield


@pytest.fixture(scope="module", params=[*KINDS, "minilm", "minilm without nanotoken"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """A tokenizer file with special tokens around a text, and whether the fast tokenizer may be used."""
    kind = request.param
    if kind.startswith("minilm"):
        artifact: Path = request.getfixturevalue("minilm_artifact")
        return artifact / "tokenizer.json", kind == "minilm"
    tokenizer = HuggingFaceTokenizer.from_str(KINDS[kind].to_str())
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    file = tmp_path_factory.mktemp("kind") / "tokenizer.json"
    tokenizer.save(str(file))
    return file, False


@cache
def opened(file: Path, most: int, fast: bool) -> Tokenizer:
    """Open a tokenizer once: each check of the fast one takes some milliseconds."""
    return Tokenizer(file, most, fast=fast)


@given(PARTS, st.sampled_from([3, 5, 16, 61]), st.sampled_from(["right", "left"]))
@settings(max_examples=40, deadline=None)
def test_the_ids_are_those_of_the_whole_text(case: tuple[Path, bool], parts: list[str], most: int, side: Side) -> None:
    file, fast = case
    tokenizer = opened(file, most, fast)
    whole = tokenizer._tokenizer
    text = "".join(parts)
    expected = whole.encode(text).ids
    prefix, suffix = tokenizer.num_prefix, tokenizer.num_special - tokenizer.num_prefix
    body = expected[prefix : len(expected) - suffix]
    room = most - tokenizer.num_special
    kept = body[:room] if side == "right" else body[max(len(body) - room, 0) :]
    with short():
        encodings = tokenizer.encode(["a", text, "b c"], side=side)
    start, end = encodings.offsets[1:3].tolist()
    assert encodings.ids[start:end].tolist() == [*expected[:prefix], *kept, *expected[len(expected) - suffix :]]
    assert encodings.ids[:start].tolist() == tokenizer.encode(["a"], side=side).ids.tolist()
    exact = len(body) - len(kept)
    assert (encodings.dropped[1] > 0) == (exact > 0) and encodings.dropped[1] <= exact


@given(PARTS, PARTS, st.sampled_from([5, 16, 61]), st.sampled_from(["right", "left"]))
@settings(max_examples=25, deadline=None)
def test_the_ids_of_pairs_are_those_of_the_whole_texts(
    case: tuple[Path, bool], first: list[str], second: list[str], most: int, side: Side
) -> None:
    file, fast = case
    tokenizer = opened(file, most, fast)
    texts = "".join(first), "".join(second)
    expected = encode_pairs(tokenizer._tokenizer, [texts], most, side)
    with short(len(min(texts, key=len))), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "side", side)
        found = tokenizer.encode_pairs([texts[0]], [texts[1]])
    assert found.ids.tolist() == expected.ids.tolist() and found.types.tolist() == expected.types.tolist()
    assert (found.dropped[0] > 0) == (expected.dropped[0] > 0) and found.dropped[0] <= expected.dropped[0]


def test_only_the_end_that_remains_is_tokenized(case: tuple[Path, bool]) -> None:
    file, fast = case
    tokenizer = Tokenizer(file, 64, fast=fast)
    text = " ".join(SENTENCES) * 400
    assert len(text) > 500_000
    for side in ("right", "left"):
        before = tokenizer.stats.tokens
        encodings = tokenizer.encode([text], side=side)
        assert encodings.lengths.tolist() == [64] and encodings.dropped[0] > 0
        assert tokenizer.stats.tokens - before < 1000
    assert tokenizer.encode([text], side="neither").dropped[0] == 0
    assert tokenizer.encode([text], side="neither").num_tokens > 50_000


def test_counts_of_shorter_texts_are_exact(case: tuple[Path, bool]) -> None:
    file, fast = case
    tokenizer = Tokenizer(file, 64, fast=fast)
    text = (" ".join(SENTENCES) * 10)[:LONG]
    assert len(text) == LONG
    whole = tokenizer.encode([text], side="neither").num_tokens
    assert tokenizer.encode([text]).dropped.tolist() == [whole - 64]


def test_tokenizers_without_known_ends_take_the_whole_text(tmp_path: Path) -> None:
    """Without a split of words, no place is known that no token spans: all tokens are counted."""
    tokenizer = HuggingFaceTokenizer.from_str(KINDS["roberta"].to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    opened = Tokenizer(tmp_path / "tokenizer.json", 64)
    text = (" ".join(SENTENCES) * 20)[: LONG + 1]
    expected = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    encodings = opened.encode([text])
    assert encodings.ids.tolist() == expected[:64] and encodings.dropped.tolist() == [len(expected) - 64]


def test_errors_name_the_text_among_all(case: tuple[Path, bool]) -> None:
    file, fast = case
    tokenizer = Tokenizer(file, 64, fast=fast)
    long = "a word and " * LONG
    with pytest.raises(InputError, match="text 2 holds the lone surrogate"):
        tokenizer.encode([long, "b", long + "\udc00"])
    with pytest.raises(InputError, match="text 1 holds the lone surrogate"):
        tokenizer.encode([long, "\udc00"])
    with pytest.raises(InputError, match="lone surrogate"):
        tokenizer.encode_pairs([long], [long + "\udc00"])


@pytest.mark.slow
def test_a_text_of_a_megabyte_takes_at_most_two_milliseconds_more(case: tuple[Path, bool]) -> None:
    """The figure of the issue: cut to 512 tokens, against a text of 4 KB."""
    file, fast = case
    tokenizer = Tokenizer(file, 512, fast=fast, cache_bytes=0)
    words = " ".join(SENTENCES) * 1000
    texts = {"short": words[:4096], "long": words[: 1 << 20]}
    assert len(texts["long"]) == 1 << 20

    def seconds(text: str) -> float:
        runs: list[Any] = []
        for _ in range(30):
            started = time.perf_counter()
            tokenizer.encode([text])
            runs.append(time.perf_counter() - started)
        return float(min(runs))

    assert seconds(texts["long"]) - seconds(texts["short"]) < 0.002
