"""Settings and files of a checkpoint, and the features of the texts that exercise each of them.

A setting that no text exercises is "not checked": a passed verification says nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fletcher.model_zoo.sentence_transformers.files import TRANSFORMER_FILES

from ..checkpoint.files import MODULE_RULES, RULES, FileRule, rule_of
from ..checkpoint.json_files import find_json
from ..checkpoint.sentence_transformers import read_modules
from ..reference.witness import Witness
from .case import (
    ACCENTS,
    ADDED,
    ANY,
    BLANKS,
    CAPITALS,
    CJK,
    CONTROL,
    LONG,
    LONG_WORD,
    SPACES,
    SPECIAL,
    Case,
    prompt_feature,
)
from .checkpoint_tokens import CheckpointTokens
from .report import SettingResult

__all__ = ["Setting", "judge_settings", "list_settings"]

#: Files whose keys are listed one by one.
_LISTED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config_sentence_transformers.json",
    *TRANSFORMER_FILES,
)

_ANY = frozenset((ANY,))
_LONG = frozenset((LONG,))
_SPECIAL = frozenset((SPECIAL,))
_ADDED = frozenset((ADDED, SPECIAL))

#: Keys of tokenizer_config.json and the features of texts that show them; other keys are not checked.
TOKENIZER_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "tokenizer_class": _ANY,
        "do_lower_case": frozenset((CAPITALS,)),
        "lowercase": frozenset((CAPITALS,)),
        "strip_accents": frozenset((ACCENTS,)),
        "tokenize_chinese_chars": frozenset((CJK,)),
        "clean_text": frozenset((CONTROL, SPACES)),
        "do_basic_tokenize": _ANY,
        "never_split": _SPECIAL,
        "add_prefix_space": _ANY,
        "add_dummy_prefix": _ANY,
        "remove_space": frozenset((BLANKS, SPACES)),
        "keep_accents": frozenset((ACCENTS,)),
        "max_input_chars_per_word": frozenset((LONG_WORD,)),
        "model_max_length": _LONG,
        "max_length": _LONG,
        "truncation_side": _LONG,
        "truncation_strategy": _LONG,
        "stride": _LONG,
        "add_bos_token": _ANY,
        "add_eos_token": _ANY,
        "legacy": frozenset((BLANKS, SPECIAL)),
        "split_special_tokens": _SPECIAL,
        "model_input_names": _ANY,
        "added_tokens_decoder": _ADDED,
        "additional_special_tokens": _ADDED,
        "extra_special_tokens": _ADDED,
        "bos_token": _SPECIAL,
        "eos_token": _SPECIAL,
        "cls_token": _SPECIAL,
        "sep_token": _SPECIAL,
        "unk_token": _SPECIAL,
        "pad_token": _SPECIAL,
        "mask_token": _SPECIAL,
    }
)

#: Parts of tokenizer.json.
TOKENIZER_PARTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "normalizer": _ANY,
        "pre_tokenizer": _ANY,
        "model": _ANY,
        "post_processor": _ANY,
        "added_tokens": _ADDED,
        "truncation": _LONG,
    }
)

#: Keys of sentence-transformers' files; other keys are not checked.
SENTENCE_KEYS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "max_seq_length": _LONG,
        "do_lower_case": frozenset((CAPITALS,)),
        "model_type": _ANY,
        "truncate_dim": _ANY,
        "activation_fn": _ANY,
        "query_prefix": _ANY,
        "document_prefix": _ANY,
        "query_length": _LONG,
        "document_length": _LONG,
        "do_query_expansion": _ANY,
        "attend_to_expansion_tokens": _ANY,
        "query_expansion": _ANY,
        "skiplist_words": _ANY,
    }
)

#: Keys that decide no vector: versions, the format of a tokenizer's file, and the way from token ids back to text.
DESCRIPTIONS = (
    "__version__",
    "version",
    "transformers_version",
    "name_or_path",
    "tokenizer_file",
    "backend",
    "decoder",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Setting or file of a checkpoint.

    Attributes:
        name: file, and key in it.
        features: features of the texts that exercise it; None if no text can.
        note: addition for the report.
    """

    name: str
    features: frozenset[str] | None
    note: str = ""


def list_settings(witness: Witness, tokens: CheckpointTokens) -> list[Setting]:
    """Return the settings of a checkpoint, in the order of the files in a model's computation.

    Args:
        witness: the reference.
        tokens: added tokens, of which the texts may hold a part.
    """
    folder = witness.encoder_folder
    settings = [
        *_keys(folder / "tokenizer.json", TOKENIZER_PARTS),
        *_keys(folder / "tokenizer_config.json", TOKENIZER_KEYS),
        *_keys(folder / "special_tokens_map.json", MappingProxyType({}), _SPECIAL),
        *_prompts(witness),
        *(setting for name in TRANSFORMER_FILES for setting in _keys(folder / name, SENTENCE_KEYS)),
        *_files(witness),
    ]
    if find_json(folder / "config.json").get("auto_map"):
        settings.append(Setting("config.json: auto_map", None, "it names code of the repository, which is not run"))
    if tokens.left_out:
        settings.append(Setting(f"{tokens.left_out:,} of the added tokens", None, "too many: a sample was compared"))
    return settings


def _keys(file: Path, known: Mapping[str, frozenset[str]], default: frozenset[str] | None = None) -> Iterator[Setting]:
    """Yield the keys of a JSON file that have a value."""
    for key, value in find_json(file).items():
        if value in (None, [], {}, "") or key in DESCRIPTIONS:
            continue
        yield Setting(f"{file.name}: {key}", known.get(key, default))


def _prompts(witness: Witness) -> Iterator[Setting]:
    file = witness.folder / "config_sentence_transformers.json"
    settings: dict[str, Any] = find_json(file)
    prompts = settings.pop("prompts", None)
    default = settings.pop("default_prompt_name", None)
    for name in {**(prompts if isinstance(prompts, dict) else {}), **witness.card.prompts}:
        origin = f"{file.name}: prompts" if isinstance(prompts, dict) and name in prompts else "card: prompts"
        yield Setting(f"{origin}: {name}", frozenset((prompt_feature(name),)))
    if default is not None:
        yield Setting(f"{file.name}: default_prompt_name", frozenset((prompt_feature(default),)))
    for key, value in settings.items():
        if value not in (None, [], {}, "") and key not in DESCRIPTIONS:
            yield Setting(f"{file.name}: {key}", SENTENCE_KEYS.get(key))


def _files(witness: Witness) -> Iterator[Setting]:
    """Yield the other files that the reference reads, and those that only the user's word lets an export pass."""
    yield from _files_of(witness.encoder_folder, "", RULES)
    for module in read_modules(witness.folder):
        if module.path and module.folder != witness.encoder_folder:
            yield from _files_of(module.folder, f"{module.path}/", MODULE_RULES)


def _files_of(folder: Path, prefix: str, rules: Sequence[FileRule]) -> Iterator[Setting]:
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_dir() or (not prefix and file.name in _LISTED):
            continue
        rule = rule_of(file.name, rules)
        if rule is None or rule.verdict == "refused":
            yield Setting(
                f"{prefix}{file.name}", None, "Fletcher does not read it, and the reference runs no code of it"
            )
        elif rule.verdict == "read":
            yield Setting(f"{prefix}{file.name}", _ADDED if file.name == "added_tokens.json" else _ANY)


def judge_settings(
    settings: Sequence[Setting], cases: Sequence[Case], failed: Sequence[bool]
) -> tuple[SettingResult, ...]:
    """Return the texts that exercised each setting, and whether the artifact agreed with the reference on them.

    Args:
        settings: the settings.
        cases: texts that the reference accepted.
        failed: for each text, whether token ids or results differ.
    """
    results = []
    for setting in settings:
        wrong = [
            bad for case, bad in zip(cases, failed, strict=True) if (setting.features or frozenset()) & case.features
        ]
        verdict: Literal["passed", "failed", "not checked"] = "failed" if any(wrong) else "passed"
        results.append(
            SettingResult(
                setting=setting.name,
                exercised_by="; ".join(sorted(setting.features)) if setting.features and wrong else "",
                texts=len(wrong),
                failed=sum(wrong),
                verdict=verdict if wrong else "not checked",
                note=setting.note,
            )
        )
    return tuple(results)
