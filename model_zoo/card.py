"""What a model *is*: the card. It knows where a model's files come from, not how they are fetched or run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

__all__ = ["INPUT_TYPES", "RAW", "ModelCard", "PoolingMode"]

#: sentence-transformers' names of its pooling modes (`pooling_mode_*` in `1_Pooling/config.json`).
PoolingMode = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

#: The input types that every model understands; a model without a prompt for one gets the text as it is.
INPUT_TYPES = ("query", "document", "clustering", "classification")

#: The input type that never adds a prompt.
RAW = "raw"


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How close to the HuggingFace model in float32 a precision must be, over every text.

    Attributes:
        min_cosine: smallest cosine between a vector and its reference.
        max_abs: largest absolute difference of an element, or None where only the angle matters.
    """

    min_cosine: float
    max_abs: float | None = None


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model's published settings.

    Attributes:
        name: the zoo's name, also the default name under which it is served.
        family: `model_type` of the checkpoint's `config.json`.
        dimension: length of a vector.
        max_tokens: longest input, special tokens included.
        pooling: how token vectors become one; several modes are concatenated.
        normalize: whether vectors have L2 norm 1.
        licence: SPDX identifier.
        sources: where the files come from, in the order of trial: `hf:org/name`, `pypi:dist==version[,dist==version…]`.
        revision: the hub commit that the sources were read at.
        prompts: prefix by input type; a standard input type without one gets none.
        matryoshka: shorter dimensions that the model was trained for, largest first.
        layer_norm_before_truncation: whether a layer norm without weights comes before a Matryoshka cut (Nomic).
        sha256: hex digest by file name, for the files that the card pins.
        accuracy: what each precision must reach against HuggingFace in float32.
        aliases: other names under which people ask for it.
    """

    name: str
    family: str
    dimension: int
    max_tokens: int
    pooling: tuple[PoolingMode, ...]
    normalize: bool
    licence: str
    sources: tuple[str, ...] = ()
    revision: str | None = None
    prompts: Mapping[str, str] = {}
    matryoshka: tuple[int, ...] = ()
    layer_norm_before_truncation: bool = False
    sha256: Mapping[str, str] = {}
    accuracy: Mapping[str, Accuracy] = {}
    aliases: tuple[str, ...] = ()
