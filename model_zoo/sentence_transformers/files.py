"""Files that sentence-transformers, PyLate and Stanford's ColBERT write beside a checkpoint: the one place that reads them.

This file has the files' names and formats; `modules.py`, `heads.py` and `read_card.py` interpret them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..decode import decode_json
from ..errors import CardError

__all__ = [
    "ROUTERS",
    "TRANSFORMER_FILES",
    "CheckpointConfig",
    "ModelSettings",
    "Module",
    "SentenceTransformersFiles",
    "StanfordSettings",
    "TokenizerSettings",
    "TransformerSettings",
    "read_files",
    "read_json",
    "read_module_config",
    "read_module_list",
    "read_special_tokens",
    "read_stanford_settings",
    "read_tokenizer_settings",
    "special_token_texts",
]

#: Names of the transformer module's file: older versions had one for each family (Transformer.load_config).
TRANSFORMER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

#: Kinds of the module that sends texts through one of several lists of modules; Asym is its name before version 5.
ROUTERS = ("Router", "Asym")


class CheckpointConfig(msgspec.Struct, frozen=True):
    """Keys of `config.json` that a card depends on, under the names of all families."""

    model_type: str | None = None
    architectures: tuple[str, ...] | None = None
    hidden_size: int | None = None
    embedding_dim: int | None = None
    dim: int | None = None  # distilbert
    d_model: int | None = None  # t5
    n_embd: int | None = None  # nomic_bert
    max_position_embeddings: int | None = None
    n_positions: int | None = None  # nomic_bert
    pad_token_id: int | None = None
    vocab_size: int | None = None
    id2label: dict[str, str] | None = None
    num_labels: int | None = None
    sbert_ce_default_activation_function: str | None = None
    sentence_transformers: dict[str, Any] | None = None
    matryoshka_dimensions: tuple[int, ...] | None = None


class ModelSettings(msgspec.Struct, frozen=True):
    """`config_sentence_transformers.json`: prompts, lengths, and the settings of rerankers and of PyLate's models."""

    model_type: str | None = None
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None
    matryoshka_dimensions: tuple[int, ...] | None = None
    activation_fn: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    query_length: int | None = None
    document_length: int | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None
    skiplist_words: tuple[str, ...] | None = None


class TransformerSettings(msgspec.Struct, frozen=True):
    """`sentence_bert_config.json`: settings of the module Transformer."""

    max_seq_length: int | None = None
    do_lower_case: bool = False
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: dict[str, Any] | None = None
    modality_config: dict[str, Any] | None = None


class TokenizerSettings(msgspec.Struct, frozen=True):
    """Keys of `tokenizer_config.json` that a card depends on."""

    chat_template: str | list[dict[str, Any]] | dict[str, Any] | None = None
    model_max_length: int | float | None = None
    mask_token: str | dict[str, Any] | None = None
    cls_token: str | dict[str, Any] | None = None
    bos_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None
    pad_token: str | dict[str, Any] | None = None
    unk_token: str | dict[str, Any] | None = None


class StanfordSettings(msgspec.Struct, frozen=True):
    """`artifact.metadata`: settings of Stanford's ColBERT, with its own defaults."""

    dim: int = 128
    query_token_id: str | None = None
    doc_token_id: str | None = None
    query_maxlen: int | None = None
    doc_maxlen: int | None = None
    attend_to_mask_tokens: bool = False
    mask_punctuation: bool = True


@dataclass(frozen=True, slots=True)
class Module:
    """One module of `modules.json`.

    Attributes:
        type: dotted name of its class.
        path: its folder, relative to the checkpoint; empty for the checkpoint itself.
        folder: its folder.
        entry: all keys of its entry.
    """

    type: str
    path: str
    folder: Path
    entry: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Name of its class, without the package."""
        return self.type.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class SentenceTransformersFiles:
    """Parsed files of a checkpoint folder; a file that does not exist gives None, or the settings' defaults.

    Attributes:
        folder: the checkpoint.
        config: `config.json`.
        modules: `modules.json`, in its order.
        settings: `config_sentence_transformers.json`.
        transformer: `sentence_bert_config.json`, or its older name for a family.
    """

    folder: Path
    config: CheckpointConfig | None
    modules: tuple[Module, ...] | None
    settings: ModelSettings
    transformer: TransformerSettings | None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Class names of the modules; empty without `modules.json`."""
        return tuple(module.kind for module in self.modules or ())


def read_files(folder: Path) -> SentenceTransformersFiles:
    """Read the files of a checkpoint folder.

    Raises:
        CardError: a file cannot be read, is not JSON, or has a key of a wrong type; the message names the file and the key.
    """
    modules = read_module_list(folder)
    config = read_json(folder / "config.json", CheckpointConfig)
    if modules is None:
        # Without modules.json sentence-transformers opens none of its other files (`_load_default_modules`).
        return SentenceTransformersFiles(folder, config, None, ModelSettings(), None)
    return SentenceTransformersFiles(
        folder=folder,
        config=config,
        modules=modules,
        settings=read_json(folder / "config_sentence_transformers.json", ModelSettings) or ModelSettings(),
        transformer=_read_transformer(folder),
    )


def _read_transformer(folder: Path) -> TransformerSettings | None:
    """Read the transformer's settings: the first file that has a key, as `Transformer.load_config` does."""
    for name in TRANSFORMER_FILES:
        if read_json(folder / name, dict[str, Any]):
            return read_json(folder / name, TransformerSettings)
    return None


def read_module_list(folder: Path) -> tuple[Module, ...] | None:
    """Read `modules.json`; return None if there is no such file.

    Raises:
        CardError: the file cannot be read, or is not a list of modules.
    """
    file = folder / "modules.json"
    try:
        entries = read_json(file, list[dict[str, Any]])
    except CardError as error:
        raise CardError(f"{error}; {file.name} must be a list of sentence-transformers' modules") from error
    if entries is None:
        return None
    for index, entry in enumerate(entries):
        for key in ("path", "type"):
            if not isinstance(entry.get(key), str):
                raise CardError(
                    f"{file}: `{key}` of module {index} is {entry.get(key)!r}; {file.name} must be a list of "
                    "sentence-transformers' modules"
                )
    return tuple(Module(entry["type"], entry["path"], folder / entry["path"], entry) for entry in entries)


def read_module_config(module: Module) -> dict[str, Any] | None:
    """Read a module's own `config.json`; return None if there is no such file.

    Raises:
        CardError: the file cannot be read, or is not a JSON object.
    """
    return read_json(module.folder / "config.json", dict[str, Any])


def read_tokenizer_settings(folder: Path) -> TokenizerSettings:
    """Read `tokenizer_config.json`.

    Raises:
        CardError: the file cannot be read, is not JSON, or has a key of a wrong type.
    """
    return read_json(folder / "tokenizer_config.json", TokenizerSettings) or TokenizerSettings()


def read_special_tokens(folder: Path) -> TokenizerSettings:
    """Read `special_tokens_map.json`.

    Raises:
        CardError: the file cannot be read, is not JSON, or has a key of a wrong type.
    """
    return read_json(folder / "special_tokens_map.json", TokenizerSettings) or TokenizerSettings()


def special_token_texts(folder: Path) -> dict[str, str]:
    """Return the texts of the special tokens that the tokenizer's files name, by their keys, such as `eos_token`.

    Raises:
        CardError: a file cannot be read, is not JSON, or has a key of a wrong type.
    """
    tokens: dict[str, str] = {}
    for settings in (read_special_tokens(folder), read_tokenizer_settings(folder)):
        for name in ("bos_token", "eos_token", "cls_token", "pad_token", "unk_token", "mask_token"):
            value: Any = getattr(settings, name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[name] = text
    return tokens


def read_stanford_settings(folder: Path) -> StanfordSettings:
    """Read `artifact.metadata`.

    Raises:
        CardError: the file cannot be read, is not JSON, or has a key of a wrong type.
    """
    return read_json(folder / "artifact.metadata", StanfordSettings) or StanfordSettings()


_T = TypeVar("_T")


def read_json(file: Path, kind: type[_T]) -> _T | None:
    """Read a JSON file as a type; return None if there is no such file.

    Raises:
        CardError: the file cannot be read, is not JSON, or has a key of a wrong type; the message names the file and the key.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CardError(f"{file} cannot be read: {error.strerror}") from error
    try:
        return decode_json(data, kind)
    except msgspec.DecodeError as error:
        raise CardError(f"{file}: {error}") from error
