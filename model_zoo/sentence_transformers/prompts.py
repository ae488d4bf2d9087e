"""Prompts of a checkpoint by input type, as sentence-transformers 6 applies them."""

from __future__ import annotations

from collections.abc import Mapping

from ..card import INPUT_TYPES, RAW
from ..errors import CardError
from .files import SentenceTransformersFiles

__all__ = ["read_prompts"]

#: Prompts that a model has, empty, where its file has none (`_default_prompts` of all kinds of models).
_OWN = ("query", "document")


def read_prompts(files: SentenceTransformersFiles, prompts: Mapping[str, str | None] | None) -> dict[str, str]:
    """Return the prompts by input type; one that is empty is left out.

    `query` is `encode_query`, `document` is `encode_document`, and every other name is `encode(prompt_name=NAME)`. The two
    take the prompt of their own name alone: the model has an empty one where the file has none, before `passage`, `corpus` or
    the default prompt are looked at (base/model.py, sentence_transformer/model.py). `clustering` and `classification` without
    a prompt of their own are `encode`, which adds the default prompt.

    Args:
        files: files of the checkpoint.
        prompts: prompts of `config_sentence_transformers.json`, with a ColBERT model's markers.

    Raises:
        CardError: the default prompt does not exist, or a prompt has the name `raw`.
    """
    file, given = files.folder / "config_sentence_transformers.json", prompts or {}
    result = {name: text for name, text in given.items() if text}
    default = files.settings.default_prompt_name
    if default is not None and default not in {*given, *_OWN}:
        raise CardError(f"{file}: `default_prompt_name`: {default!r} is not one of its prompts")
    if default is not None and (text := result.get(default)):
        result |= {name: text for name in INPUT_TYPES if name not in {*given, *_OWN}}
    if RAW in result:
        raise CardError(f"{file}: `prompts.{RAW}`: {RAW!r} is the input type that never adds a prompt: rename it")
    return result
