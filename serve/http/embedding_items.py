"""`EmbeddingItem`: answer for one text. The routes and streams of OpenAI and TEI share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from numpy.typing import NDArray

from fletcher.runtime import Embeddings, SparseEmbeddings, TextOutputs, TokenEmbeddings
from fletcher.runtime.encodings import Chunks

from .json import json_rows, little_endian, short_floats

__all__ = [
    "ChunkItem",
    "EmbeddingItem",
    "SparseValue",
    "TokenId",
    "Usage",
    "Vector",
    "embedding_items",
    "further_items",
    "sparse_values",
    "token_items",
]

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]

#: A vector: numbers, or bytes that msgspec encodes as base64.
Vector = list[float] | bytes


class SparseValue(msgspec.Struct, frozen=True):
    """Weight of a token of the vocabulary."""

    index: int
    value: float


class ChunkItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Chunk of a split text."""

    embedding: Vector
    start: Annotated[int, Meta(description="Index of its first token in the text, special tokens aside.")]
    end: Annotated[int, Meta(description="Index after its last token.")]
    scale: Annotated[
        float | None, Meta(description="Factor by which the elements of an int8 vector are multiplied.")
    ] = None


class EmbeddingItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Vector of one text."""

    object: Annotated[str, Meta(extra_json_schema={"const": "embedding"})]
    index: int
    embedding: Vector
    tokens_seen: Annotated[int, Meta(description="Number of tokens that the model saw, with special tokens.")]
    tokens_dropped: Annotated[
        int, Meta(description="Number of tokens that truncation cut; of more than 16,384 characters at least.")
    ]
    scale: Annotated[
        float | None, Meta(description="Factor by which the elements of an int8 vector are multiplied.")
    ] = None
    chunks: Annotated[list[ChunkItem] | None, Meta(description="Chunks of the text, if it was split.")] = None
    sparse: Annotated[
        list[SparseValue] | None, Meta(description="Weights of the vocabulary's tokens, if they were included.")
    ] = None
    token_vectors: Annotated[
        list[Vector] | None, Meta(description="Vector of each token but the first, if they were included.")
    ] = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Number of tokens that the model computed."""

    prompt_tokens: int
    total_tokens: int


def embedding_items(
    embeddings: Embeddings, start: int, end: int, *, binary: bool, first_index: int | None = None
) -> list[EmbeddingItem]:
    """Return the items of a range of texts.

    Args:
        embeddings: vectors of the texts.
        start, end: range of the texts.
        binary: True to encode vectors as base64 instead of numbers.
        first_index: index of the first item. Default: `start`.
    """
    tokens = embeddings.tokens[start:end].tolist()
    dropped = embeddings.dropped[start:end].tolist()
    rows = embeddings.vectors[start:end]
    values: Sequence[Vector] = [row.tobytes() for row in little_endian(rows)] if binary else json_rows(rows)
    scales = None if embeddings.scales is None else embeddings.scales[start:end].tolist()
    chunks = embeddings.chunks
    offset = start if first_index is None else first_index
    return [
        EmbeddingItem(
            object="embedding",
            index=offset + row,
            embedding=value,
            tokens_seen=tokens[row],
            tokens_dropped=dropped[row],
            scale=None if scales is None else scales[row],
            chunks=None if chunks is None else _chunk_items(chunks, start + row, binary=binary),
        )
        for row, value in enumerate(values)
    ]


def sparse_values(sparse: SparseEmbeddings, text: int) -> list[SparseValue]:
    """Return the weights of one text."""
    start, end = sparse.offsets[text : text + 2].tolist()
    pairs = zip(sparse.indices[start:end].tolist(), short_floats(sparse.values[start:end]), strict=True)
    return [SparseValue(index, value) for index, value in pairs]


def further_items(outputs: TextOutputs, start: int, end: int, *, binary: bool) -> list[EmbeddingItem]:
    """Return the items of a range of texts with their further outputs.

    Args:
        outputs: vectors and further outputs of the texts.
        start, end: range of the texts.
        binary: True to encode vectors as base64 instead of numbers.
    """
    assert outputs.vectors is not None
    items = embedding_items(outputs.vectors, start, end, binary=binary)
    sparse, tokens = outputs.sparse, outputs.token_vectors
    return [
        msgspec.structs.replace(
            item,
            sparse=None if sparse is None else sparse_values(sparse, item.index),
            token_vectors=None if tokens is None else token_items(tokens, item.index, binary=binary),
        )
        for item in items
    ]


def token_items(tokens: TokenEmbeddings, text: int, *, binary: bool) -> list[Vector]:
    """Return the vectors of the tokens of one text."""
    rows = tokens.vectors[slice(*tokens.offsets[text : text + 2].tolist())]
    return [row.tobytes() for row in little_endian(rows)] if binary else list(json_rows(rows))


def _chunk_items(chunks: Chunks, text: int, *, binary: bool) -> list[ChunkItem]:
    """Return the items of the chunks of one text."""
    rows = slice(*chunks.offsets[text : text + 2].tolist())
    vectors: NDArray[Any] = chunks.vectors[rows]
    values: Sequence[Vector] = [row.tobytes() for row in little_endian(vectors)] if binary else json_rows(vectors)
    scales = [None] * len(vectors) if chunks.scales is None else chunks.scales[rows].tolist()
    return [
        ChunkItem(embedding=value, start=start, end=end, scale=scale)
        for value, (start, end), scale in zip(values, chunks.spans[rows].tolist(), scales, strict=True)
    ]
