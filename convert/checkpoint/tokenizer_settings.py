"""Keys of `tokenizer_config.json` and `special_tokens_map.json`: applied, known to be harmless, or refused with what to do.

"Applied" means as transformers' class of the checkpoint applies them: a class that ignores a key ignores it here, too.
Sources: `PreTrainedTokenizerBase.__init__` and `_from_pretrained`, and the classes' own `__init__`, of transformers 4.57 and
5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fletcher.runtime.errors import CheckpointError

from .ignored_keys import IgnoredKeys

__all__ = ["APPLIED", "HARMLESS", "REFUSED", "SPECIAL_TOKENS", "check_keys"]

#: Names of special tokens in the order in which transformers adds them (`SPECIAL_TOKENS_ATTRIBUTES`).
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

#: Keys that decide token ids, their number, or the inputs of the model.
APPLIED = frozenset(
    {
        *SPECIAL_TOKENS,
        "add_prefix_space",
        "added_tokens_decoder",
        "additional_special_tokens",
        "do_lower_case",
        "extra_special_tokens",
        "keep_accents",
        "model_input_names",
        "model_max_length",
        "model_specific_special_tokens",
        "strip_accents",
        "tokenize_chinese_chars",
        "tokenizer_class",
        "truncation_side",
    }
)

#: Keys that decide no id of a text, nor any vector of a text by itself.
HARMLESS = frozenset(
    {
        # Decoding, chats and character offsets.
        "chat_control_tokens",
        "chat_template",
        "clean_up_tokenization_spaces",
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
        "errors",  # of bytes that are decoded
        "response_schema",
        "response_template",
        "spaces_between_special_tokens",
        "trim_offsets",
        "use_default_system_prompt",
        # Padding, which the attention mask hides.
        "pad_to_multiple_of",
        "pad_token_type_id",
        "padding_side",
        # Stored by a call, replaced by the arguments of the next (`_get_padding_truncation_strategies`).
        "max_length",
        "stride",
        "truncation_strategy",
        # Of transformers 4's tokenizers in Python alone: `convert_slow_tokenizer` leaves them out, or the class resets them.
        "do_basic_tokenize",
        "legacy",
        "never_split",
        "remove_space",
        "sp_model_kwargs",
        # `_from_pretrained` drops them where there is a tokenizer.json, or the classes that Fletcher applies ignore them.
        "add_bos_token",
        "add_eos_token",
        # Where the files came from, and how they were loaded.
        "_commit_hash",
        "_from_auto",
        "backend",
        "device_map",
        "files_loaded",
        "full_tokenizer_file",
        "is_local",
        "local_files_only",
        "merges_file",
        "name_or_path",
        "processor_class",
        "special_tokens_map_file",
        "tokenizer_file",
        "torch_dtype",
        "transformers_version",
        "trust_remote_code",
        "use_fast",
        "verbose",
        "vocab_file",
    }
)

#: Keys that Fletcher does not reproduce, and what to do. They are accepted with the value None, False or an empty list.
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "auto_map": "the checkpoint's own code makes its token ids, and Fletcher runs no code of a checkpoint",
        "fast_tokenizer_files": "transformers chooses one of these files by its own version: keep the right one as "
        "tokenizer.json, and remove the key",
        "fix_mistral_regex": "transformers then changes tokenizer.json: save the changed tokenizer with transformers",
        "from_slow": "transformers then makes another tokenizer than tokenizer.json: save that one with transformers",
        "init_inputs": "arguments without names of an old tokenizer: save the tokenizer with a current transformers",
        "max_len": "the old name of model_max_length: write that name, or choose the length with --max-tokens and remove it",
        "split_special_tokens": "special tokens in a text are then cut into pieces, which tokenizer.json cannot express",
    }
)


def check_keys(file: Path, settings: Mapping[str, Any], ignored: IgnoredKeys) -> dict[str, Any]:
    """Check that Fletcher knows every key of a settings file of a tokenizer, and return the settings without ignored keys.

    Args:
        file: the file, for messages.
        settings: its contents.
        ignored: keys that the user declares harmless (`--ignore-key`); those that Fletcher applies stay.

    Raises:
        CheckpointError: a key is unknown, or has an effect that Fletcher does not reproduce.
    """
    if settings.get("pad_token", "[PAD]") in (None, ""):
        value = "null" if settings["pad_token"] is None else "empty"
        raise CheckpointError(
            f"{file}: pad_token is {value}, so transformers may have no token to fill batches with: name the token in a copy"
        )
    if settings.get("unk_token") == "":
        raise CheckpointError(f"{file}: unk_token is empty, with which transformers fails: name the token in a copy")
    if not isinstance(settings.get("trim_offsets", True), bool):
        raise CheckpointError(
            f"{file}: trim_offsets is {settings['trim_offsets']!r}, with which transformers fails: write true or false"
        )
    refused = {key for key, value in settings.items() if key in REFUSED and not _is_off(key, value, settings)}
    unknown = {
        key for key in settings if not (key in APPLIED or key in HARMLESS or key in REFUSED or _names_token(key))
    }
    for key in ignored.refused(refused):
        raise CheckpointError(
            f"{file} has {key} {_excerpt(settings[key])}: {REFUSED[key]}. --ignore-key {key} converts the checkpoint without "
            "it"
        )
    if remaining := ignored.refused(unknown):
        raise CheckpointError(
            f"{file} has keys that Fletcher does not know: {', '.join(remaining)}. Remove those that do not change the token "
            "ids from a copy of the file, or name each with --ignore-key"
        )
    return {key: value for key, value in settings.items() if key not in refused | unknown}


def _is_off(key: str, value: Any, settings: Mapping[str, Any]) -> bool:
    """Return whether a refused key has no effect with its value."""
    if key == "auto_map" and isinstance(value, dict):
        return "AutoTokenizer" not in value
    if key == "max_len":  # `model_max_length` is preferred
        return value is None or settings.get("model_max_length") is not None
    if key == "split_special_tokens":  # with null, transformers fails
        return value is False
    return value is None or value is False or value == []


def _names_token(key: str) -> bool:
    """Return whether transformers 5 takes the key for a special token of one model, such as `image_token`."""
    return key.endswith("_token")


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
