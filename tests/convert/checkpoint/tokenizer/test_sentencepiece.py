"""Tokenizers made of SentencePiece models, compared with the SentencePiece library itself and with transformers."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.tokenizer.file import write_tokenizer
from fletcher.convert.checkpoint.tokenizer.sentencepiece import read_sentencepiece
from fletcher.convert.checkpoint.tokenizer_version import TokenizerLike
from fletcher.convert.texts import SENTENCES
from fletcher.runtime.errors import CheckpointError
from fletcher.runtime.tokenizing.conformance_texts import hostile_texts

from .variants import TEXTS, write_variant

sentencepiece = pytest.importorskip("sentencepiece")

#: Characters that the tokenizers library treats differently from SentencePiece, and transformers with it: blanks that are not
#: spaces, spellings of special tokens and of the space, and marks that combine with the letter before them.
SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Unigram model with SentencePiece's own table of characters, trained on the built-in sentences."""
    folder = tmp_path_factory.mktemp("spm")
    (folder / "texts.txt").write_text("\n".join(" ".join(text.split()) for text in SENTENCES), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"),
        model_prefix=str(folder / "model"),
        vocab_size=900,
        hard_vocab_limit=False,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
        num_threads=1,
    )
    return folder / "model.model"


def save(trained: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    (folder / "sentencepiece.bpe.model").write_bytes(trained.read_bytes())
    return folder


def test_pieces_scores_and_types_are_those_of_the_library(trained: Path) -> None:
    model, library = read_sentencepiece(trained), sentencepiece.SentencePieceProcessor(model_file=str(trained))
    numbers = range(library.get_piece_size())
    assert [text for text, _, _ in model.pieces] == [library.id_to_piece(number) for number in numbers]
    assert [score for _, score, _ in model.pieces] == [library.get_score(number) for number in numbers]
    assert [kind == 3 for _, _, kind in model.pieces] == [library.is_control(number) for number in numbers]
    assert model.unknown == library.unk_id() and model.kind == 1 and len(model.charsmap) > 100_000


@pytest.mark.parametrize("like", ["4", "5"])
def test_texts_get_the_ids_of_sentencepiece_itself(trained: Path, tmp_path: Path, like: TokenizerLike) -> None:
    folder = save(trained, tmp_path / "c")
    checkpoint = Checkpoint(folder, {"model_type": "xlm-roberta"}, {}, tokenizer_like=like)
    write_tokenizer(checkpoint, tmp_path / "t.json", 1_000_000)
    ours, library = Tokenizer.from_file(str(tmp_path / "t.json")), sentencepiece.SentencePieceProcessor(str(trained))
    texts = [*SENTENCES, *TEXTS, *hostile_texts([], sorted(ours.get_vocab())[::7])]
    texts = [text for text in texts if not any(sign in text for sign in (*SEPARATORS, "<", "▁", "\ufffd"))]
    texts = [text for text in texts if not any(unicodedata.category(sign).startswith("M") for sign in text)]
    compared = 0
    for text in texts:
        expected = [number + 1 if number else 3 for number in library.encode(text)]  # fairseq's order of special tokens
        if expected == [] or text != text.strip():
            continue  # blanks at the ends: see `test_variants.py` for transformers' ids
        assert ours.encode(text, add_special_tokens=False).ids == expected, text
        compared += 1
    assert compared > 130


def test_difficult_texts_get_the_ids_of_transformers_5(trained: Path, tmp_path: Path) -> None:
    folder = save(trained, tmp_path / "c")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    checkpoint = Checkpoint(folder, {"model_type": "xlm-roberta"}, {}, tokenizer_like="5")
    write_tokenizer(checkpoint, tmp_path / "t.json", 1_000_000)
    ours = Tokenizer.from_file(str(tmp_path / "t.json"))
    added = [token.content for token in ours.get_added_tokens_decoder().values()]
    for text in [*TEXTS, *hostile_texts(added, sorted(ours.get_vocab())[::5])]:
        assert ours.encode(text).ids == reference(text)["input_ids"], text


def test_a_model_of_pairs_of_bytes_is_refused(tmp_path: Path) -> None:
    folder = write_variant("xlm_roberta/sentencepiece", tmp_path / "c")
    file = folder / "sentencepiece.bpe.model"
    content = file.read_bytes()
    assert content.count(b"\x18\x01\xc0\x02") == 1
    file.write_bytes(content.replace(b"\x18\x01\xc0\x02", b"\x18\x02\xc0\x02"))  # model_type of TrainerSpec
    with pytest.raises(
        CheckpointError, match=r"SentencePiece model of the type 2, and a XLMRobertaTokenizer has type 1"
    ):
        write_tokenizer(Checkpoint(folder, {"model_type": "xlm-roberta"}, {}), tmp_path / "t.json", 1_000_000)


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    folder = write_variant("xlm_roberta/sentencepiece", tmp_path / "c")
    file = folder / "sentencepiece.bpe.model"
    content = file.read_bytes()
    for damaged in (b"", b"{}", content[:1000], content[:-3], b"\xff" * 30, content[:500] + b"\xff" * 40):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model"):
            write_tokenizer(Checkpoint(folder, {"model_type": "xlm-roberta"}, {}), tmp_path / "t.json", 1_000_000)
