"""`Encodings` and `Embeddings`: token ids and vectors, the structs that all parts of the runtime exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chunks", "Embeddings", "Encodings", "counting", "ragged_index"]


#: Attribute of `Encodings` by the tensor's name in a graph.
_TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "input_ids": "ids",
        "offsets": "offsets",
        "token_type_ids": "types",
        "skipped_tokens": "types",
        "task_ids": "types",
        "text_tasks": "text_types",
    }
)


def counting(size: int) -> NDArray[np.int32]:
    """Return 0, 1, 2, … as a part of a cached read-only array, int32, (size,)."""
    return _counted((size - 1).bit_length())[:size]


@cache
def _counted(bits: int) -> NDArray[np.int32]:
    numbers = np.arange(1 << bits, dtype=np.int32)
    numbers.flags.writeable = False
    return numbers


def ragged_index(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the elements of the selected rows of a ragged array, row by row.

    Args:
        offsets: index of each row's first element, and at the end the number of all elements, int64, (n + 1,).
        rows: row indices, int64, (m,).

    Returns:
        Indices, int64, (elements of those rows,).
    """
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    return _ragged_index(starts, lengths, np.cumsum(lengths) - lengths)


def _ragged_index(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], new_starts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the old index of each selected element: its new index plus the distance from its row's new to its old start."""
    index: NDArray[np.int64] = np.repeat(starts - new_starts, lengths)
    index += counting(len(index))
    return index


@dataclass(frozen=True, slots=True)
class Encodings:
    """Tokenized texts as a ragged array. They have no padding; a session adds it if its target needs it.

    Attributes:
        ids: token ids with their special tokens, int32, (total_tokens,).
        offsets: index of each text's first id, and at the end the number of all ids, int64, (n + 1,).
        dropped: number of tokens that truncation cut from each text, int32, (n,); for very long texts at least that number,
            see `Tokenizer.encode`.
        token_types: for pairs of texts, 0 or 1 for a token of the first or the second text, and for a prompt that is left
            out of the pooling 1; for a model with adapters or routes the number of the text's task; int32,
            (total_tokens,). None means 0 for all.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    dropped: NDArray[np.int32]
    token_types: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each text, special tokens included, int64, (n,)."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all texts, special tokens included."""
        return int(self.offsets[-1])

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> Encodings:
        """Join rows of token ids. The number of dropped tokens is 0 for each."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        arrays = [np.asarray(row, np.int32) for row in rows]
        ids = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        return cls(ids, offsets, np.zeros(len(rows), np.int32))

    @classmethod
    def concatenate(cls, parts: Sequence[Encodings]) -> Encodings:
        """Join encodings, in order."""
        lengths = np.concatenate([part.lengths for part in parts]) if parts else np.zeros(0, np.int64)
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if not parts:
            return cls(np.zeros(0, np.int32), offsets, np.zeros(0, np.int32))
        ids, dropped = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "dropped"))
        if all(part.token_types is None for part in parts):
            return cls(ids, offsets, dropped)
        return cls(ids, offsets, dropped, np.concatenate([part.types for part in parts]))

    @property
    def types(self) -> NDArray[np.int32]:
        """Token types, int32, (total_tokens,)."""
        return np.zeros(len(self.ids), np.int32) if self.token_types is None else self.token_types

    @property
    def text_types(self) -> NDArray[np.int32]:
        """Token type of each text's first token, int32, (n,); every text has a token."""
        return self.types[self.offsets[:-1]]

    def token_index(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the tokens of the selected rows, row by row, int64, (tokens of those rows,)."""
        return ragged_index(self.offsets, rows)

    def tensors(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the inputs of a graph for packed tokens: `input_ids`, `offsets`, for pairs `token_type_ids`, and where a
        prompt is left out of the pooling `skipped_tokens`; for a model with adapters for tasks `task_ids`, and for one
        with routes `text_tasks`.

        Raises:
            KeyError: texts have no tensor of that name.
        """
        return {name: getattr(self, _TENSORS[name]) for name in names}

    def select(self, rows: NDArray[np.int64]) -> Encodings:
        """Return the selected rows, in the order of the indices.

        Args:
            rows: row indices, int64, (m,).
        """
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        index = _ragged_index(starts, lengths, offsets[:-1])
        types = None if self.token_types is None else self.token_types[index]
        return Encodings(self.ids[index], offsets, self.dropped[rows], types)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Parts of texts that were cut into windows or chunks, in order.

    Attributes:
        vectors: vectors of the chunks, (m, dimension), of the same type as those of the texts.
        offsets: index of each text's first chunk, and at the end the number of all chunks, int64, (n + 1,).
        spans: first token of each chunk and the token behind its last one, int64, (m, 2). They are counted among the text's
            own tokens, without special tokens and prompt.
        scales: scales of int8 vectors, float32, (m,); None for other types.
    """

    vectors: NDArray[Any]
    offsets: NDArray[np.int64]
    spans: NDArray[np.int64]
    scales: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: vectors in the order of the texts and in the requested type: float32, float16 or int8, (n, dimension), or
            uint8 with one bit per element, (n, dimension / 8).
        tokens: number of tokens of each text that the model processed, special tokens included, int64, (n,).
        dropped: number of tokens that truncation cut from each text, int32, (n,).
        scales: scales of int8 vectors, float32, (n,); None for other types. An element times its scale differs from the
            float32 element by at most half a scale.
        chunks: parts of the texts if they were cut into windows or chunks, else None.
    """

    vectors: NDArray[Any]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]
    scales: NDArray[np.float32] | None = None
    chunks: Chunks | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors of the texts."""
        return self.vectors.nbytes
