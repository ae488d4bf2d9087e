"""Queries that need no model: a SPLADE query has the weights of its tokens, an embedder's the mean of their vectors.

Source: `forward` and `preprocess` of SparseStaticEmbedding and StaticEmbedding in sentence-transformers.
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

from ..encodings import Embeddings, Encodings
from ..errors import ArtifactError, TooLongError
from ..options.embed import EmbedOptions
from ..tokenizing.tokenizer import Tokenizer
from ..tokenizing.truncation import truncate
from .heads import SparseEmbeddings
from .postprocess import normalize
from .task import Task, finish, refuse_empty

__all__ = [
    "encode_static",
    "prepare_mean",
    "prepare_static",
    "read_query_weights",
    "takes_static",
    "write_query_weights",
]

QueryWeights = NDArray[np.float32]


def write_query_weights(path: Path, weights: QueryWeights) -> None:
    """Write what each token has, float32: weights, (vocabulary,), or vectors, (vocabulary, dimension)."""
    path.write_bytes(save({"weights": np.ascontiguousarray(weights, np.float32)}))


def read_query_weights(path: Path) -> QueryWeights:
    """Read what each token has, float32: weights, (vocabulary,), or vectors, (vocabulary, dimension).

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        weights = load(path.read_bytes())["weights"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"the query weights {path} cannot be read ({error}): convert the checkpoint again"
        ) from error
    if weights.ndim not in (1, 2) or weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise ArtifactError(f"the query weights {path} are not finite float32 numbers: convert the checkpoint again")
    return weights


def takes_static(card: ModelCard, options: EmbedOptions) -> bool:
    """Return whether texts of an input type need no model.

    Raises:
        OptionError: neither Fletcher nor the card defines the input type.
    """
    return options.reads_static(card)


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


def prepare_mean(
    tokenizer: Tokenizer, card: ModelCard, vectors: QueryWeights, texts: Sequence[str], options: EmbedOptions
) -> Task:
    """Return a task without rows to compute, whose `finish` gives the mean of each text's token vectors.

    Args:
        tokenizer: the model's tokenizer.
        card: the model's card.
        vectors: vector of each token, (vocabulary, dimension).
        texts: any number of texts.
        options: options of embedding, which `ModelInfo.check` accepted.

    Raises:
        InputError: a text is not a valid Unicode string, or has no token.
        TooLongError: a text is too long, and the options refuse such texts.
    """
    encodings = _encode_checked(tokenizer, card, texts, options)
    if not encodings.lengths.all():
        refuse_empty(encodings, card)
    sums = np.zeros((len(encodings), vectors.shape[1]), np.float32)
    if len(encodings):
        np.add.reduceat(vectors[encodings.ids], encodings.offsets[:-1], axis=0, out=sums)
    means: QueryWeights = np.divide(sums, encodings.lengths[:, None].astype(np.float32))
    embeddings = Embeddings(normalize(means) if card.normalize else means, encodings.lengths, encodings.dropped)

    def answer(values: NDArray[Any]) -> Embeddings:
        return finish(embeddings, None, card, options)

    return Task(Encodings.from_lists([]), None, answer)


def _encode_checked(tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], options: EmbedOptions) -> Encodings:
    """Encode queries, and refuse those that truncation cuts if the options say so."""
    encodings = encode_static(tokenizer, card, texts, options)
    if options.overflow == "refuse" and encodings.dropped.any():
        text = int(np.argmax(encodings.dropped > 0))
        raise TooLongError(f"text {text} is too long for a query of {card.name}: shorten it, or request truncation")
    return encodings


def prepare_static(
    tokenizer: Tokenizer, card: ModelCard, weights: QueryWeights, texts: Sequence[str], options: EmbedOptions
) -> Task:
    """Return a task without rows to compute, whose `finish` gives `SparseEmbeddings`.

    Raises:
        InputError: a text is not a valid Unicode string.
        TooLongError: a text is too long, and the options refuse such texts.
    """
    encodings = _encode_checked(tokenizer, card, texts, options)
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
