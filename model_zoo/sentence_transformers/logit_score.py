"""Scores of rerankers that are language models: the tokens of the answer, and the text around a pair.

Source: sentence-transformers' `LogitScore`, and `Transformer.preprocess` for the chat template and the instruction.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ..card import LogitScore, PairTemplate
from ..errors import CardError
from .chat_template import read_template
from .files import (
    SentenceTransformersFiles,
    TransformerSettings,
    read_json,
    read_tokenizer_settings,
    special_token_texts,
)

__all__ = ["read_logit_score"]

#: Texts in a template by which sentence-transformers gives it messages with lists of parts (`InputFormatter._infer_format`).
_STRUCTURED = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")


class _Config(msgspec.Struct, forbid_unknown_fields=True):
    """`config.json` of a LogitScore module."""

    true_token_id: int
    false_token_id: int | None = None
    module_input_name: str = "causal_logits"


def read_logit_score(files: SentenceTransformersFiles) -> LogitScore:
    """Return the score of a checkpoint with the modules Transformer and LogitScore.

    Raises:
        CardError: a file is missing or malformed, or asks for something that Fletcher does not reproduce.
    """
    module = (files.modules or ())[1]
    file = module.folder / "config.json"
    config = read_json(file, _Config)
    if config is None:
        raise CardError(f"{file} is missing, and modules.json names it")
    if config.module_input_name != "causal_logits":
        raise CardError(f"{file}: module_input_name is {config.module_input_name!r}; causal_logits is reproduced")
    return LogitScore(true_token=config.true_token_id, false_token=config.false_token_id, template=_template(files))


def _template(files: SentenceTransformersFiles) -> PairTemplate | None:
    """Return the text around a pair; None if sentence-transformers gives the tokenizer the two texts.

    It does so where its settings list no messages, whether there is a chat template or not (`Transformer.load_config`).
    """
    folder = files.folder
    modalities = (files.transformer or TransformerSettings()).modality_config or {}
    source, where = _source(folder)
    instruction = _instruction(files)
    messages = modalities.get("message")
    if messages is None:
        if instruction:
            raise CardError(f"{folder}: a reranker with prompts and without a chat template is not reproduced")
        return None
    if source is None:
        raise CardError(
            f"{folder}: modality_config lists messages, and the tokenizer has no chat template: fetch chat_template.jinja too"
        )
    style = messages.get("format", "auto") if isinstance(messages, dict) else None
    if style == "auto":
        style = "structured" if any(text in source for text in _STRUCTURED) else "flat"
    if style != "flat":
        raise CardError(f"{where}: messages of the format {style!r} are not reproduced, only flat ones")
    return read_template(source, where, instruction, special_token_texts(folder))


def _source(folder: Path) -> tuple[str | None, str]:
    """Return the chat template and its file: a file of its own, else the tokenizer's settings, as transformers does."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8"), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise CardError(f"{file} cannot be read: {error}") from error
    source, file = read_tokenizer_settings(folder).chat_template, folder / "tokenizer_config.json"
    if source is not None and not isinstance(source, str):
        raise CardError(f"{file}: `chat_template` has several templates; one is reproduced")
    return source, str(file)


def _instruction(files: SentenceTransformersFiles) -> str | None:
    """Return the instruction of every pair, the default prompt; None if there is none (`_resolve_prompt`)."""
    settings = files.settings
    if settings.default_prompt_name is None:
        return None
    prompts = settings.prompts or {}
    if settings.default_prompt_name not in prompts:
        file = files.folder / "config_sentence_transformers.json"
        raise CardError(f"{file}: `default_prompt_name`: {settings.default_prompt_name!r} is not one of its prompts")
    return prompts[settings.default_prompt_name] or None
