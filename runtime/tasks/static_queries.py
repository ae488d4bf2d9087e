"""Queries of inference-free SPLADE: each token that a query has gets its own weight, without a model.

Source: `SparseStaticEmbedding.forward` and `preprocess` of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fletcher.model_zoo.card import ModelCard, StaticQueries

from ..encodings import Encodings
from ..errors import ArtifactError, TooLongError
from ..options.embed import EmbedOptions
from ..tokenizing.tokenizer import Tokenizer
from ..tokenizing.truncation import truncate
from .heads import SparseEmbeddings
from .task import Task

__all__ = ["encode_static", "prepare_static", "read_query_weights", "takes_static", "write_query_weights"]

QueryWeights = NDArray[np.float32]


def write_query_weights(path: Path, weights: QueryWeights) -> None:
    """Write the weight of each token, float32, (vocabulary,)."""
    path.write_bytes(save({"weights": np.ascontiguousarray(weights, np.float32)}))


def read_query_weights(path: Path) -> QueryWeights:
    """Read the weight of each token, float32, (vocabulary,).

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        weights = load(path.read_bytes())["weights"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"the query weights {path} cannot be read ({error}): convert the checkpoint again"
        ) from error
    if weights.ndim != 1 or weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise ArtifactError(f"the query weights {path} are not finite float32 numbers: convert the checkpoint again")
    return weights


def takes_static(card: ModelCard, options: EmbedOptions) -> bool:
    """Return whether texts of an input type get the weights of their tokens alone.

    Raises:
        OptionError: neither Fletcher nor the card defines the input type.
    """
    settings = card.static_queries
    if not isinstance(settings, StaticQueries):
        return False
    purpose = options.purpose(card)
    return purpose == "query" or (purpose != "document" and settings.others)


def encode_static(tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], options: EmbedOptions) -> Encodings:
    """Add the prompt, tokenize without special tokens, and cut at the end.

    Raises:
        InputError: a text is not a valid Unicode string.
    """
    if prompt := options.prompt(card):
        texts = [prompt + text if isinstance(text, str) else text for text in texts]
    framed = tokenizer.encode(texts, side="neither")
    places = np.arange(framed.num_tokens) - np.repeat(framed.offsets[:-1], framed.lengths)
    behind = tokenizer.num_special - tokenizer.num_prefix
    own = (places >= tokenizer.num_prefix) & (places < np.repeat(framed.lengths - behind, framed.lengths))
    offsets = framed.offsets - tokenizer.num_special * np.arange(len(framed) + 1)
    settings = card.static_queries
    most = settings.max_tokens if isinstance(settings, StaticQueries) else None
    if most is None:
        return Encodings(framed.ids[own], offsets, framed.dropped)
    return truncate(
        framed.ids[own], offsets, most, side="left" if options.overflow == "truncate_left" else tokenizer.side
    )


def prepare_static(
    tokenizer: Tokenizer, card: ModelCard, weights: QueryWeights, texts: Sequence[str], options: EmbedOptions
) -> Task:
    """Return a task without rows to compute, whose `finish` gives `SparseEmbeddings`.

    Raises:
        InputError: a text is not a valid Unicode string.
        TooLongError: a text is too long, and the options refuse such texts.
    """
    encodings = encode_static(tokenizer, card, texts, options)
    if options.overflow == "refuse" and encodings.dropped.any():
        text = int(np.argmax(encodings.dropped > 0))
        raise TooLongError(f"text {text} is too long for a query of {card.name}: shorten it, or request truncation")
    texts_of = np.repeat(np.arange(len(encodings)), encodings.lengths)
    order = np.lexsort((encodings.ids, texts_of))
    ids, rows = encodings.ids[order], texts_of[order]
    kept = np.ones(len(ids), bool)
    kept[1:] = (ids[1:] != ids[:-1]) | (rows[1:] != rows[:-1])
    kept &= weights[ids] != 0
    offsets = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum(np.bincount(rows[kept], minlength=len(encodings)), out=offsets[1:])
    sparse = SparseEmbeddings(ids[kept], weights[ids[kept]], offsets, encodings.lengths, encodings.dropped)

    def finish(values: NDArray[Any]) -> SparseEmbeddings:
        return sparse

    return Task(Encodings.from_lists([]), None, finish)
