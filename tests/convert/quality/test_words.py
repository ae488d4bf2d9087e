"""Unknown tokens and words in pieces, for tokenizers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from fletcher.convert.quality.measures.words import describe_words, unknown_id


@pytest.fixture
def word_piece(tmp_path: Path) -> Path:
    vocabulary = {"[UNK]": 0, "red": 1, "fox": 2, "##es": 3}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_unknown_tokens_and_pieces_are_counted(word_piece: Path) -> None:
    texts = ["red foxes", "red dog", "red"]
    tokens, dropped = np.array([5, 4, 3]), np.array([0, 2, 0], np.int32)
    found = describe_words(word_piece, texts, tokens, dropped)
    assert found.unknown_token == "[UNK]"
    assert found.unknown == pytest.approx(1 / 6)  # red fox ##es, red [UNK], red
    assert found.texts_with_unknown == pytest.approx(1 / 3)
    assert found.split_words == pytest.approx(1 / 5)
    assert found.tokens_per_word == pytest.approx(6 / 5)
    assert found.truncated == pytest.approx(1 / 3)
    assert found.lost_tokens == pytest.approx(2 / 14)
    assert found.mean_tokens == pytest.approx(14 / 3)


def test_a_tokenizer_of_bytes_knows_every_text(tmp_path: Path) -> None:
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "tokenizer.json"))
    assert unknown_id(tmp_path / "tokenizer.json") is None


def test_unigram_has_the_id_of_its_unknown_token(tmp_path: Path) -> None:
    Tokenizer(models.Unigram([("a", -1.0), ("<unk>", -2.0)], unk_id=1)).save(str(tmp_path / "tokenizer.json"))
    assert unknown_id(tmp_path / "tokenizer.json") == 1
