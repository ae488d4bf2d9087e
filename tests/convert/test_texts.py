"""Built-in texts of every length, identical on every run, and files of texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from fletcher.convert.texts import EDGES, SENTENCES, lengths_to, read_texts, text_of_length
from fletcher.runtime.errors import InputError


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Small WordPiece tokenizer with two special tokens around a text."""
    built = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = sorted({char for text in SENTENCES for char in text if char.isascii() and char.isprintable()})
    trainer = trainers.WordPieceTrainer(
        vocab_size=400,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    built.train_from_iterator(SENTENCES, trainer)
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built


def test_text_of_length_has_the_exact_length_and_start(tokenizer: Tokenizer) -> None:
    for length in (2, 3, 17, 500):
        assert len(tokenizer.encode(text_of_length(length, lambda text: len(tokenizer.encode(text).ids))).ids) == length
    text = text_of_length(40, lambda text: len(tokenizer.encode(text).ids), start=3)
    assert text.startswith(SENTENCES[3][:20])


def test_the_texts_can_be_encoded_and_cover_difficult_characters() -> None:
    joined = "".join((*EDGES, *SENTENCES))
    joined.encode()
    assert {"", " "} <= set(EDGES)
    for char in ("\x00", "\u200d", "🎉", "面", "я", "خ", "ह", "빵", "\U0010fffd", "\u0301"):
        assert char in joined


def test_lengths_are_dense_at_first_then_around_powers_of_two_and_end_at_the_limit() -> None:
    assert lengths_to(1) == [1]
    lengths = lengths_to(256)
    assert lengths[:24] == list(range(1, 25)) and lengths[-2:] == [255, 256]
    assert {31, 32, 33, 48, 63, 64, 65, 127, 128, 129} <= set(lengths)
    lengths = lengths_to(8192)
    assert lengths[-2:] == [8191, 8192] and {1024, 1536, 4096} <= set(lengths)
    assert len(lengths) < 60


def test_read_texts_reads_one_text_per_line(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\r\n\ntwo\u2028still two\n".encode())
    assert read_texts(file) == ["one", "", "two\u2028still two"]


def test_read_texts_reads_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a\\nb", "id": 7}\n\n{"text": ""}\n', encoding="utf-8")
    assert read_texts(file) == ["a\nb", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"txt": "x"}\n', "line 2"),
        ("a.jsonl", b'{"text": 3}', "line 1"),
        ("a.jsonl", b"not json", "line 1"),
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"good\n\xff", "not UTF-8"),
    ],
)
def test_read_texts_reports_the_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts(tmp_path / name)


def test_read_texts_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(tmp_path / "missing.txt")
