"""Keys of transformers' PretrainedConfig, and of tools that write one, that do not change an encoder's inference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fletcher.runtime.errors import CheckpointError

__all__ = ["HARMLESS", "check_types"]

HARMLESS = frozenset(
    {
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "_commit_hash",  # transformers' configuration_utils.py: revision that the file came from
        "_name_or_path",
        "architectures",
        "attention_probs_dropout_prob",
        "attn_implementation",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "classifier_dropout",
        "cls_token_id",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "language",  # FARM's: language of the training texts (farm/modeling/language_model.py)
        "length_penalty",
        "mask_token_id",
        "matryoshka_dimensions",  # read by the card: lengths that a request may name
        "max_length",
        # No family's code reads it from config.json; the limit is that of sentence_bert_config.json or the tokenizer.
        "max_seq_length",
        "min_length",
        "model_type",
        "name",  # FARM's: name of the class that wrote the file
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sentence_transformers",
        "sbert_ce_default_activation_function",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "use_bfloat16",
        "use_cache",
    }
)

_NUMBERS = re.compile(r"(^|_)dropout(_prob)?$|^initializer_range$")
_FLAGS = ("output_attentions", "output_hidden_states", "return_dict", "tie_word_embeddings", "use_cache")
_DTYPES = (None, "bfloat16", "float16", "float32", "float64")


def check_types(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse harmless keys of a type with which transformers 5 does not load a checkpoint (its strict dataclasses).

    Args:
        file: config.json.
        config: its keys.

    Raises:
        CheckpointError: a value has another type.
    """
    expected = {
        **dict.fromkeys(filter(_NUMBERS.search, config), ("a number", _is_number)),
        "classifier_dropout": ("a number or null", lambda value: value is None or _is_number(value)),
        "classifier_activation": ("the name of a function", lambda value: isinstance(value, str)),
        "bos_token_id": ("a token id or null", lambda value: value is None or _is_id(value)),
        "eos_token_id": ("a token id, a list of them or null", _is_token),
        **dict.fromkeys(_FLAGS, ("true or false", lambda value: isinstance(value, bool))),
        **dict.fromkeys(("dtype", "torch_dtype"), ("a floating-point type of torch", lambda value: value in _DTYPES)),
    }
    for key, (words, fits) in expected.items():
        if key in config and not fits(config[key]):
            raise CheckpointError(
                f"{file}: {key} is {config[key]!r}, and transformers needs {words}: correct it in a copy"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_token(value: object) -> bool:
    return value is None or all(map(_is_id, value if isinstance(value, list) else [value]))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
