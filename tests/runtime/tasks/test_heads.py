"""Pairs, sparse rows, ColBERT's queries and their canaries, compared with transformers and with cases worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from fletcher.model_zoo.card import LateInteraction, ModelCard, QueryExpansion
from fletcher.runtime.canary import Canary, comparable, encode_canary, read_canary, write_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, InputError
from fletcher.runtime.model_info import require_output
from fletcher.runtime.tasks.heads import prepare_late, to_sparse
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

WORDS = [f"w{index}" for index in range(30)]
LIMIT = 12


@pytest.fixture
def file(tmp_path: Path) -> Path:
    vocabulary = {name: index for index, name in enumerate(["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", *WORDS])}
    tokenizer = HuggingFaceTokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.fixture
def tokenizer(file: Path) -> Tokenizer:
    return Tokenizer(file, LIMIT)


def text(length: int) -> str:
    return " ".join(WORDS[:length])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("limit", [3, 4, 7, 8, 12])
def test_pairs_are_cut_as_transformers_cuts_them(file: Path, limit: int, side: str) -> None:
    theirs: Any = PreTrainedTokenizerFast
    names = ["input_ids", "token_type_ids", "attention_mask"]
    cut_at(file, side)
    reference = theirs(tokenizer_file=str(file), model_input_names=names, truncation_side=side)
    lengths = (0, 1, 2, 3, 4, 5, 6, 9, 20)
    pairs = [(text(first), text(second)) for first in lengths for second in lengths]
    encodings = Tokenizer(file, limit).encode_pairs(*zip(*pairs, strict=True))
    firsts, seconds = (list(side) for side in zip(*pairs, strict=True))
    cut = reference(firsts, seconds, truncation="longest_first", max_length=limit)
    uncut = reference(firsts, seconds)["input_ids"]
    assert np.split(encodings.ids, encodings.offsets[1:-1])[40].tolist() == cut["input_ids"][40]
    assert [row.tolist() for row in np.split(encodings.ids, encodings.offsets[1:-1])] == cut["input_ids"]
    assert [row.tolist() for row in np.split(encodings.types, encodings.offsets[1:-1])] == cut["token_type_ids"]
    assert encodings.dropped.tolist() == [len(a) - len(b) for a, b in zip(uncut, cut["input_ids"], strict=True)]


def cut_at(file: Path, side: str) -> None:
    """Write the side at which texts are cut into a tokenizer file."""
    tokenizer = HuggingFaceTokenizer.from_file(str(file))
    tokenizer.enable_truncation(1000, direction=side)
    tokenizer.save(str(file))


def test_many_pairs_and_none(tokenizer: Tokenizer) -> None:
    many = tokenizer.encode_pairs([text(1)] * 1500, [text(2)] * 1500)
    assert len(many) == 1500 and many.types[:6].tolist() == [0, 0, 0, 1, 1, 1]
    none = tokenizer.encode_pairs([], [])
    assert len(none) == 0 and none.types.tolist() == []
    bad: Any = 5
    with pytest.raises(InputError, match="int, not a string"):
        tokenizer.encode_pairs(["w1"], [bad])
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode_pairs(["w1"], ["\ud800"])


def test_token_types_go_along(tokenizer: Tokenizer) -> None:
    pairs = tokenizer.encode_pairs([text(1), text(2)], [text(3), text(1)])
    swapped = pairs.select(np.array([1, 0]))
    assert swapped.types.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    joined = Encodings.concatenate([Encodings.from_lists([[7, 8]]), swapped])
    assert joined.types.tolist() == [0, 0, *swapped.types.tolist()]
    assert Encodings.concatenate([Encodings.from_lists([[7]])]).token_types is None
    assert pairs.token_index(np.array([1, 0])).tolist() == [7, 8, 9, 10, 11, 12, 0, 1, 2, 3, 4, 5, 6]


def test_sparse_rows_by_hand() -> None:
    rows = np.array([[0, 0.5, 0, 2], [0, 0, 0, 0], [1, 0, 0, 0]], np.float32)
    indices, values, offsets = to_sparse(rows)
    assert (indices.tolist(), values.tolist(), offsets.tolist()) == ([1, 3, 0], [0.5, 2, 1], [0, 2, 2, 3])
    assert [part.tolist() for part in to_sparse(rows[:0])] == [[], [], [0]]


def test_queries_are_cut_and_filled_up_by_hand(tokenizer: Tokenizer) -> None:
    late = LateInteraction(query_tokens=5, document_tokens=4, expansion=QueryExpansion(token="[MASK]", length=5))
    encodings = tokenizer.encode([text(1), text(9), text(3)])
    queries = prepare_late(encodings, tokenizer, late, "query")
    assert [row.tolist() for row in np.split(queries.ids, queries.offsets[1:-1])] == [
        [0, 5, 1, 4, 4],
        [0, 5, 6, 7, 1],
        [0, 5, 6, 7, 1],
    ]
    assert queries.dropped.tolist() == [0, 6, 0]
    documents = prepare_late(encodings, tokenizer, late, "document")
    assert documents.lengths.tolist() == [3, 4, 4] and documents.dropped.tolist() == [0, 7, 1]
    unknown = LateInteraction(query_tokens=5, document_tokens=4, expansion=QueryExpansion(token="[Q]", length=5))
    with pytest.raises(ArtifactError, match=r"lacks the token '\[Q\]'"):
        prepare_late(encodings, tokenizer, unknown, "query")


def card(**fields: Any) -> ModelCard:
    base: dict[str, Any] = {"name": "m", "family": "f", "dimension": 4, "max_tokens": LIMIT, "pooling": ()}
    return ModelCard(**base, normalize=False, license="MIT", **fields)


def test_the_right_method_is_named() -> None:
    require_output(card(output="sparse"), "sparse")
    with pytest.raises(InputError, match="m gives token vectors, not scores: use `embed_tokens` instead of `score`"):
        require_output(card(output="token_vectors"), "scores")


def test_canaries_of_every_kind_are_read_as_written(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "c.safetensors"
    texts, queries = (text(2), text(1)), (text(1), text(3))
    pairs = encode_canary(tokenizer, card(), texts, queries)
    write_canary(path, Canary(texts, pairs, np.array([[0.5], [0.25]], np.float32), "", queries))
    loaded = read_canary(path)
    assert loaded.queries == queries and np.array_equal(loaded.encodings.types, pairs.types)
    sparse = np.zeros((2, 40), np.float32)
    sparse[0, 3], sparse[1, 39] = 1.5, 0.25
    write_canary(path, Canary(texts, tokenizer.encode(texts), sparse, ""))
    assert np.array_equal(read_canary(path).vectors, sparse)
    assert path.stat().st_size < 1000
    late = LateInteraction(query_tokens=6, document_tokens=6, expansion=QueryExpansion(token="[MASK]", length=6))
    encodings = encode_canary(tokenizer, card(output="token_vectors", late_interaction=late), texts)
    assert encodings.lengths.tolist() == [6, 6]
    write_canary(path, Canary(texts, encodings, np.ones((12, 3), np.float32), ""))
    assert read_canary(path).vectors.shape == (12, 3)


def test_scores_and_sparse_rows_are_compared_as_one_row() -> None:
    """Separate rows would be wrong: a single score always has cosine 1 or -1, and a text without weights has cosine 0."""
    ones = np.ones((3, 2), np.float32)
    assert [part.shape for part in comparable("scores", ones, ones)] == [(1, 6), (1, 6)]
    assert [part.shape for part in comparable("vectors", ones, ones)] == [(3, 2), (3, 2)]
    assert [part.shape for part in comparable("sparse", ones, ones[:2])] == [
        (3, 2),
        (2, 2),
    ]  # `check_vectors` reports the shape
