"""Variants of a checkpoint's tokenizer files: each gives transformers' ids, truncation and token types, or is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.ignored_keys import IgnoredKeys
from fletcher.convert.checkpoint.tokenizer.file import gives_token_types, write_tokenizer
from fletcher.convert.checkpoint.tokenizer_version import TokenizerLike
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import CheckpointError
from fletcher.runtime.tokenizing.conformance_texts import hostile_texts
from fletcher.runtime.tokenizing.tokenizer import Tokenizer as TextTokenizer

from ...tiny import save_modules
from .variants import (
    FAMILIES,
    LIMIT,
    PAIR_LIMIT,
    PAIRS,
    TEXTS,
    VARIANTS,
    digest,
    reference,
    result,
    write_variant,
)

#: Digests of the ids of transformers 4, which cannot be installed together with version 5.
RECORDED = json.loads((Path(__file__).parent / "ids_of_transformers_4.json").read_text(encoding="utf-8"))

#: Variants of the quick test: every seventh one.
SAMPLE = list(VARIANTS)[::7]

#: Settings that transformers reads in an unintended way (`str(None)` as a token, ALBERT with WordPiece), so that Fletcher
#: refuses them. `sentencepiece_decoder_within` gives a word the id of the first special token.
REFUSED = ("sentencepiece_decoder_within", "null_ends", "null_settings", "text_settings", "third_class", "fourth_class")


def write(folder: Path, name: str, like: TokenizerLike | None) -> Checkpoint:
    write_variant(name, folder)
    return Checkpoint(folder, json.loads((folder / "config.json").read_text()), {}, tokenizer_like=like)


def rows(encodings: Encodings) -> list[list[list[int]]]:
    offsets = encodings.offsets.tolist()
    types = encodings.token_types
    return [
        result(encodings.ids[start:end].tolist(), None if types is None else types[start:end].tolist())
        for start, end in pairwise(offsets)
    ]


def results(file: Path) -> list[list[list[int]]]:
    """Return the results of the runtime with the artifact's file."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    computed = [result(encoding.ids, encoding.type_ids) for encoding in map(tokenizer.encode, TEXTS)]
    computed += rows(TextTokenizer(file, LIMIT, fast=False).encode(TEXTS))
    first, second = zip(*PAIRS, strict=True)
    return computed + rows(TextTokenizer(file, PAIR_LIMIT, fast=False).encode_pairs(first, second))


def check(names: Sequence[str], like: TokenizerLike, place: Path) -> None:
    for number, name in enumerate(names):
        folder = place / str(number)
        source = write(folder, name, like)
        try:
            write_tokenizer(source, place / "tokenizer.json", 1_000_000)
        except CheckpointError:
            expected = RECORDED[name] if like == "4" else reference(folder)
            assert expected is None or name.endswith(REFUSED), name
            continue
        computed = results(place / "tokenizer.json")
        if like == "4":
            assert digest(computed) == RECORDED[name], name
        else:
            assert computed == reference(folder), name


def test_a_sample_gives_the_ids_of_transformers_4(tmp_path: Path) -> None:
    check(SAMPLE, "4", tmp_path)


def test_a_sample_gives_the_ids_of_transformers_5(tmp_path: Path) -> None:
    check(SAMPLE, "5", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("like", ["4", "5"])
def test_every_variant_gives_the_ids_of_transformers(like: TokenizerLike, tmp_path: Path) -> None:
    check(list(VARIANTS), like, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_difficult_texts_get_the_ids_of_transformers_5(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_tokenizer(write(folder, f"{family}/decoder", "5"), tmp_path / "tokenizer.json", 1_000_000)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    added = [token.content for token in ours.get_added_tokens_decoder().values()]
    for text in hostile_texts(added, sorted(ours.get_vocab())[::5]):
        assert ours.encode(text).ids == tokenizer(text)["input_ids"], text


@pytest.mark.parametrize(("like", "lengths"), [("4", [1, 1]), ("5", [1, 6])])
def test_each_version_of_transformers_is_followed_where_they_differ(
    like: TokenizerLike, lengths: list[int], tmp_path: Path
) -> None:
    """tokenizer.json limits known words to four letters, and transformers 5 does not read that limit."""
    write_tokenizer(write(tmp_path / "c", "bert/short_words", like), tmp_path / "t.json", 1_000_000)
    tokenizer = Tokenizer.from_file(str(tmp_path / "t.json"))
    assert [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in ("text", "abcdef")] == lengths


@pytest.mark.parametrize(
    ("files", "like"),
    [
        ({}, "4"),  # before 4.6 transformers wrote no version
        ({"config.json": {"transformers_version": "4.57.1"}}, "4"),
        ({"config.json": {"transformers_version": "5.0.0.dev0"}}, "5"),
        (
            {
                "config.json": {"transformers_version": "5.24.0"},
                "config_sentence_transformers.json": {"__version__": {"transformers": "4.41.2"}},
            },
            "4",
        ),
        (
            {
                "config.json": {"transformers_version": "3.5.0"},
                "tokenizer_config.json": {"transformers_version": "5.1.0"},
            },
            "5",
        ),
    ],
)
def test_the_files_name_the_version(files: dict[str, dict[str, object]], like: str, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    write_variant("bert/class", folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps({"model_type": "bert"} | content))
    source = Checkpoint(folder, json.loads((folder / "config.json").read_text()), {})
    (folder / "tokenizer_config.json").write_text(json.dumps(files.get("tokenizer_config.json", {})))
    assert write_tokenizer(source, tmp_path / "t.json", 1_000_000).like == like


def test_a_version_after_the_supported_ones_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "c", "bert/class", None)
    with pytest.raises(CheckpointError, match=r"names transformers 6\.0, .* --tokenizer-like 5"):
        write_tokenizer(Checkpoint(source.folder, {"transformers_version": "6.0"}, {}), tmp_path / "t.json", 1_000_000)


@pytest.mark.parametrize(
    ("family", "versions", "like", "strips"),
    [
        (
            "roberta",
            None,
            None,
            True,
        ),  # without a version in the files: transformers 4, and the sentence-transformers that belongs to it
        ("roberta", {"sentence_transformers": "5.1.2", "transformers": "5.0.0"}, None, True),
        ("roberta", {"sentence_transformers": "6.2.0", "transformers": "4.57.1"}, None, False),
        ("roberta", {"sentence_transformers": "6.2.0", "transformers": "5.24.0"}, "4", True),
        ("roberta", {"sentence_transformers": "3.0.0", "transformers": "4.41.0"}, "5", False),
        ("bert", None, None, False),  # BERT's pipeline always removes the blanks
    ],
)
def test_sentence_transformers_5_strips_texts(
    family: str, versions: dict[str, str] | None, like: TokenizerLike | None, strips: bool, tmp_path: Path
) -> None:
    source = write(tmp_path / "c", f"{family}/class", like)
    assert not write_tokenizer(
        source, tmp_path / "t.json", 1_000_000
    ).strips_texts  # transformers without sentence-transformers strips nothing
    (source.folder / "modules.json").write_text("[]")
    (source.folder / "config_sentence_transformers.json").write_text(json.dumps({"__version__": versions}))
    assert write_tokenizer(source, tmp_path / "t.json", 1_000_000).strips_texts is strips


def test_lower_case_of_sentence_transformers_6_is_applied(tmp_path: Path) -> None:
    """Source: `Transformer.__init__`. Lowercase comes before the normalizer, and special tokens in a text keep their case."""
    source = write(tmp_path / "c", "roberta/class", "5")
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    sizes["vocab_size"] = 300
    transformers.RobertaModel(transformers.RobertaConfig(**sizes)).save_pretrained(source.folder)
    save_modules(source.folder, do_lower_case=True)
    write_tokenizer(source, tmp_path / "t.json", 1_000_000)
    tokenizer = SentenceTransformer(str(source.folder)).tokenizer
    ours = Tokenizer.from_file(str(tmp_path / "t.json"))
    for text in TEXTS:
        assert ours.encode(text).ids == tokenizer(text)["input_ids"], text


def test_lower_case_of_sentence_transformers_5_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "c", "roberta/class", "4")
    save_modules(source.folder, do_lower_case=True)
    with pytest.raises(CheckpointError, match=r"do_lower_case.*--tokenizer-like 5"):
        write_tokenizer(source, tmp_path / "t.json", 1_000_000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"surprise": 1, "other": 2}, "keys that Fletcher does not know: other, surprise.*--ignore-key"),
        ({"split_special_tokens": True}, "has split_special_tokens True.*--ignore-key split_special_tokens"),
        ({"auto_map": {"AutoTokenizer": ["own.Own", None]}}, "the checkpoint's own code"),
        ({"from_slow": True}, "another tokenizer than tokenizer.json"),
        ({"max_len": 512}, "the old name of model_max_length"),
        ({"truncation_side": "middle"}, "truncation_side 'middle': choose left or right"),
        ({"added_tokens_decoder": {"one": {"content": "x"}}}, "not an object of tokens by id"),
    ],
)
def test_settings_that_are_not_reproduced_are_named(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "c", "bert/class", "5")
    (source.folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        write_tokenizer(source, tmp_path / "t.json", 1_000_000)
    if "--ignore-key" in message:
        ignored = IgnoredKeys(settings)
        write_tokenizer(dataclasses.replace(source, ignored=ignored), tmp_path / "t.json", 1_000_000)
        assert ignored.met == tuple(sorted(settings))


def test_harmless_settings_are_accepted(tmp_path: Path) -> None:
    source = write(tmp_path / "c", "bert/class", "5")
    settings = {"split_special_tokens": False, "auto_map": {}, "max_len": 512, "model_max_length": 512, "stride": 0}
    (source.folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x", "backend": "y", **settings}))
    write_tokenizer(source, tmp_path / "t.json", 1_000_000)


@pytest.mark.parametrize(
    ("family", "present", "message"),
    [
        (
            "xlm_roberta",
            ["sentencepiece.bpe.model"],
            r"sentencepiece\.bpe\.model cannot be read as a SentencePiece model",
        ),
        ("xlm_roberta", ["spiece.model"], r"no tokenizer.json but spiece.model.*needs sentencepiece\.bpe\.model"),
        (
            "roberta",
            ["vocab.json"],
            r"no tokenizer.json but vocab.json.*needs vocab.json and merges.txt.*save_pretrained",
        ),
        ("bert", ["spiece.model"], "no tokenizer.json but spiece.model.*it needs vocab.txt.*save_pretrained"),
        ("bert", [], "neither tokenizer.json nor a vocabulary"),
    ],
)
def test_other_vocabularies_are_refused_with_the_command_that_converts_them(
    family: str, present: list[str], message: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "c", f"{family}/class", "5")
    (source.folder / "tokenizer.json").unlink()
    for name in present:
        (source.folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        write_tokenizer(source, tmp_path / "t.json", 1_000_000)


def test_other_classes_are_loaded_by_transformers(tmp_path: Path) -> None:
    source = write(tmp_path / "c", "roberta/prefix_space", "5")
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True, "truncation_side": "left"}
    (source.folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_tokenizer(source, tmp_path / "t.json", 1_000_000)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder)
    ours = TextTokenizer(tmp_path / "t.json", LIMIT, fast=False)
    for text in TEXTS:
        assert ours.encode([text]).ids.tolist() == tokenizer(text, truncation=True, max_length=LIMIT)["input_ids"], text


def test_token_types_follow_class_and_version(tmp_path: Path) -> None:
    answers = {
        name: [
            gives_token_types(write(tmp_path / f"{name}{like}".replace("/", "-"), name, like)) for like in ("4", "5")
        ]
        for name in ("bert/class", "albert/class", "bert/generic", "distilbert/class", "bert/no_types", "roberta/types")
    }
    assert answers == {
        "bert/class": [True, True],
        "albert/class": [True, False],
        "bert/generic": [True, False],
        "distilbert/class": [False, False],
        "bert/no_types": [False, False],
        "roberta/types": [True, True],
    }
