"""Token ids of the artifact's tokenizer file equal transformers', also if the checkpoint has only a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.tokenizer.file import write_tokenizer
from fletcher.convert.texts import EDGES, SENTENCES
from fletcher.runtime.errors import CheckpointError

LETTERS = sorted({char for text in (*SENTENCES, *EDGES) for char in text + text.lower() if not char.isspace()})
#: U+2028 and U+0085 end lines for `str.splitlines`, but not in a vocabulary.
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "a\x85b", *LETTERS, *(f"##{x}" for x in LETTERS)]


def checkpoint(folder: Path, settings: dict[str, Any] | None, vocabulary: list[str] | None = None) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    lines = VOCABULARY if vocabulary is None else vocabulary
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Checkpoint(folder, {"model_type": "bert"}, {})


def ids(file: Path, text: str) -> list[int]:
    token_ids: list[int] = Tokenizer.from_file(str(file)).encode(text).ids
    return token_ids


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {"do_lower_case": False, "tokenizer_class": "BertTokenizer"},
        {"do_lower_case": True, "strip_accents": False, "tokenizer_class": "BertTokenizerFast"},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {
            "unk_token": {
                "__type": "AddedToken",
                "content": "[UNK]",
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
                "normalized": False,
            }
        },
        {"cls_token": "[MASK]", "mask_token": "[CLS]"},
    ],
)
def test_a_vocabulary_is_read_as_transformers_reads_it(tmp_path: Path, settings: dict[str, Any] | None) -> None:
    folder = tmp_path / "bert"
    write_tokenizer(checkpoint(folder, settings), tmp_path / "tokenizer.json", len(VOCABULARY))
    reference = transformers.BertTokenizer.from_pretrained(folder)
    for text in (*SENTENCES, *EDGES):
        assert ids(tmp_path / "tokenizer.json", text) == reference(text)["input_ids"], text


def test_repeated_and_empty_lines_count_as_ids(tmp_path: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "", "a", "b"]
    write_tokenizer(checkpoint(tmp_path / "bert", None, vocabulary), tmp_path / "t.json", 8)
    assert ids(tmp_path / "t.json", "a b") == [
        2,
        6,
        7,
        3,
    ]  # the last of equal lines counts, as in transformers' load_vocab


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "class BertJapaneseTokenizer is loaded by transformers itself"),
        (
            {"sep_token": "</s>"},
            r"ids up to \d+, the embedding table \d+ rows: there is none for '</s>'",
        ),  # transformers also adds the token
        ({"unk_token": "<unk>"}, "lacks the unk_token '<unk>'"),
        ({"trim_offsets": None}, "trim_offsets is None, with which transformers fails"),
    ],
)
def test_a_vocabulary_of_another_tokenizer_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    num_rows = len(VOCABULARY) + ("unk_token" in settings)
    with pytest.raises(CheckpointError, match=message):
        write_tokenizer(checkpoint(tmp_path / "bert", settings), tmp_path / "t.json", num_rows)
    assert not (tmp_path / "t.json").exists()


def test_damaged_and_missing_tokenizers_are_refused(tmp_path: Path) -> None:
    checkpoint_folder = checkpoint(tmp_path / "bert", None)
    (tmp_path / "bert" / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt cannot be read"):
        write_tokenizer(checkpoint_folder, tmp_path / "t.json", 10_000)
    (tmp_path / "bert" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        write_tokenizer(checkpoint_folder, tmp_path / "t.json", 10_000)
    (tmp_path / "bert" / "tokenizer.json").unlink()
    (tmp_path / "bert" / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor a vocabulary"):
        write_tokenizer(checkpoint_folder, tmp_path / "t.json", 10_000)


def test_more_ids_than_embeddings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"ids up to {len(VOCABULARY) - 1}, the embedding table 50 rows"):
        write_tokenizer(checkpoint(tmp_path / "bert", None), tmp_path / "t.json", 50)


def change_token_a(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["a"] = vocabulary["[CLS]"]


def drop_a_special_token(content: dict[str, Any]) -> None:
    del content["post_processor"]["special_tokens"]["[SEP]"]


def leave_the_text_out(content: dict[str, Any]) -> None:
    content["post_processor"]["single"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_token_a, "of the vocabulary have one id, 2"),
        (drop_a_special_token, "it fails on texts"),
        (leave_the_text_out, "the template `single` of its post_processor leaves the text out"),
    ],
)
def test_a_tokenizer_that_fails_on_texts_leaves_them_out_or_gives_an_id_twice_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    checkpoint_folder = checkpoint(tmp_path / "bert", None)
    write_tokenizer(checkpoint_folder, tmp_path / "t.json", len(VOCABULARY))
    content = json.loads((tmp_path / "t.json").read_text())
    change(content)
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        write_tokenizer(checkpoint_folder, tmp_path / "t.json", len(VOCABULARY))
