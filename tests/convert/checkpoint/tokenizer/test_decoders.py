"""Tokenizers of language models: each variant gives transformers' ids in both versions, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.tokenizer.file import write_tokenizer
from fletcher.convert.checkpoint.tokenizer_version import TokenizerLike
from fletcher.runtime.errors import CheckpointError

from .decoder_variants import VARIANTS, write_variant
from .test_variants import results
from .variants import digest, reference

#: Digests of the ids of transformers 4, which cannot be installed together with version 5.
RECORDED = json.loads((Path(__file__).parent / "decoder_ids_of_transformers_4.json").read_text(encoding="utf-8"))


def convert(folder: Path, like: TokenizerLike) -> Path:
    config = json.loads((folder / "config.json").read_text())
    file = folder / "converted.json"
    write_tokenizer(Checkpoint(folder, config, {}, tokenizer_like=like), file, 1_000_000)
    return file


@pytest.mark.parametrize("name", VARIANTS)
def test_ids_are_those_of_transformers_5(tmp_path: Path, name: str) -> None:
    folder = write_variant(name, tmp_path / "checkpoint")
    expected = reference(folder)
    assert expected is not None
    assert results(convert(folder, "5")) == expected


@pytest.mark.parametrize("name", VARIANTS)
def test_ids_are_those_of_transformers_4(tmp_path: Path, name: str) -> None:
    folder = write_variant(name, tmp_path / "checkpoint")
    assert digest(results(convert(folder, "4"))) == RECORDED[name]


def test_a_setting_that_makes_transformers_4_take_another_file_is_refused(tmp_path: Path) -> None:
    folder = write_variant("llama", tmp_path / "checkpoint")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "add_prefix_space": True}))
    with pytest.raises(CheckpointError, match=r"add_prefix_space .* tokenizer.model"):
        convert(folder, "4")


def test_a_missing_first_token_is_named(tmp_path: Path) -> None:
    folder = write_variant("gemma", tmp_path / "checkpoint")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "bos_token": None}))
    with pytest.raises(CheckpointError, match="the bos_token None of the GemmaTokenizer"):
        convert(folder, "4")
