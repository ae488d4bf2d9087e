"""`Encodings` and `Embeddings`: token ids in, vectors out, the structs that cross every boundary of the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chunks", "Embeddings", "Encodings", "counting", "ragged_index"]


#: Attributes of `Encodings` by the name of the tensor.
_TENSORS: Mapping[str, str] = MappingProxyType({"input_ids": "ids", "offsets": "offsets", "token_type_ids": "types"})


def counting(size: int) -> NDArray[np.int32]:
    """Return 0, 1, 2, …, made once and not to be written to, int32, (size,)."""
    return _counted((size - 1).bit_length())[:size]


@cache
def _counted(bits: int) -> NDArray[np.int32]:
    numbers = np.arange(1 << bits, dtype=np.int32)
    numbers.flags.writeable = False
    return numbers


def ragged_index(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of the elements of the given rows of a ragged array, one row after the other.

    Args:
        offsets: where each row begins and the last one ends, int64, (n + 1,).
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
    """Return of every requested element its place among them, moved by the distance between its row's old and new start."""
    index: NDArray[np.int64] = np.repeat(starts - new_starts, lengths)
    index += counting(len(index))
    return index


@dataclass(frozen=True, slots=True)
class Encodings:
    """Tokenized texts, ragged: padding is a property of a target, not of a text.

    Attributes:
        ids: token ids with their special tokens, int32, (total_tokens,).
        offsets: where each text's ids begin and the last one ends, int64, (n + 1,).
        dropped: tokens that truncation cut from each text, int32, (n,).
        token_types: of pairs of texts, which of the two each token belongs to, int32, (total_tokens,); None is 0 for all.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    dropped: NDArray[np.int32]
    token_types: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, special ones included, int64, (n,)."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> Encodings:
        """Join rows of token ids; nothing counts as dropped."""
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

    def token_index(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of the tokens of the given rows, one row after the other, int64, (their tokens,)."""
        return ragged_index(self.offsets, rows)

    def tensors(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the inputs of a graph for packed tokens: `input_ids`, `offsets`, and for pairs `token_type_ids`.

        Raises:
            KeyError: texts have no tensor of that name.
        """
        return {name: getattr(self, _TENSORS[name]) for name in names}

    def select(self, rows: NDArray[np.int64]) -> Encodings:
        """Return the given rows, in the given order.

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
    """The parts of texts that were cut into windows or chunks, in order.

    Attributes:
        vectors: as those of the texts, (m, dimension).
        offsets: which chunks are a text's: where they begin and the last one's end, int64, (n + 1,).
        spans: first token and the one behind the last of each chunk, of the text's own tokens, int64, (m, 2).
        scales: of int8 vectors, float32, (m,).
    """

    vectors: NDArray[Any]
    offsets: NDArray[np.int64]
    spans: NDArray[np.int64]
    scales: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: (n, dimension), in the order of the texts: float32, or float16 or int8 where that was asked for, or uint8
            of dimension / 8 columns with a bit an element.
        tokens: tokens that the model saw of each text, special ones included, int64, (n,).
        dropped: tokens that truncation cut from each text, int32, (n,).
        scales: of int8 vectors: element times scale is the float32 one, within half a scale; float32, (n,).
        chunks: parts of the texts, where they were cut into windows or chunks.
    """

    vectors: NDArray[Any]
    tokens: NDArray[np.int64]
    dropped: NDArray[np.int32]
    scales: NDArray[np.float32] | None = None
    chunks: Chunks | None = None

    def __len__(self) -> int:
        return len(self.vectors)
