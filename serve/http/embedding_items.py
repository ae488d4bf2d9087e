"""`EmbeddingItem`: the answer for one text, which OpenAI's and TEI's routes and streams share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from numpy.typing import NDArray

from fletcher.runtime import Embeddings
from fletcher.runtime.encodings import Chunks

from .json import little_endian

__all__ = [
    "ChunkItem",
    "EmbeddingItem",
    "TokenId",
    "Usage",
    "Vector",
    "embedding_items",
]

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]

#: Numbers, or bytes that msgspec writes as base64.
Vector = list[float] | bytes


class ChunkItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a text that was split."""

    embedding: Vector
    start: Annotated[int, Meta(description="Its first token, of the text's own.")]
    end: Annotated[int, Meta(description="The token behind its last one.")]
    scale: Annotated[float | None, Meta(description="Of an int8 vector.")] = None


class EmbeddingItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One text's vector."""

    object: Annotated[str, Meta(extra_json_schema={"const": "embedding"})]
    index: int
    embedding: Vector
    tokens_seen: Annotated[int, Meta(description="Tokens that the model saw, special ones included.")]
    tokens_dropped: Annotated[int, Meta(description="Tokens that truncation cut.")]
    scale: Annotated[float | None, Meta(description="Of an int8 vector: what its elements are multiplied with.")] = None
    chunks: Annotated[list[ChunkItem] | None, Meta(description="The text's parts, where it was split.")] = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that the model computed."""

    prompt_tokens: int
    total_tokens: int


def embedding_items(
    embeddings: Embeddings, start: int, end: int, *, binary: bool, first_index: int | None = None
) -> list[EmbeddingItem]:
    """Return the items of a range of texts.

    Args:
        embeddings: the texts' vectors.
        start, end: the range.
        binary: whether vectors are bytes, which become base64, and not numbers.
        first_index: index of the first item. Default: `start`.
    """
    tokens = embeddings.tokens[start:end].tolist()
    dropped = embeddings.dropped[start:end].tolist()
    rows = embeddings.vectors[start:end]
    values: Sequence[Vector] = [row.tobytes() for row in little_endian(rows)] if binary else rows.tolist()
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


def _chunk_items(chunks: Chunks, text: int, *, binary: bool) -> list[ChunkItem]:
    """Return the items of one text's chunks."""
    rows = slice(*chunks.offsets[text : text + 2].tolist())
    vectors: NDArray[Any] = chunks.vectors[rows]
    values: Sequence[Vector] = [row.tobytes() for row in little_endian(vectors)] if binary else vectors.tolist()
    scales = [None] * len(vectors) if chunks.scales is None else chunks.scales[rows].tolist()
    return [
        ChunkItem(embedding=value, start=start, end=end, scale=scale)
        for value, (start, end), scale in zip(values, chunks.spans[rows].tolist(), scales, strict=True)
    ]
