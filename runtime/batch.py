"""`Batch`: rows that a session computes together, whatever they were made from.

A row is a sequence of tokens: those of a text, or the patches of an image. Planning, memory and padding need their lengths
alone; the graph's inputs come as named tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch"]


class Batch(Protocol):
    """Rows of tokens without padding. `Encodings` is one."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Places where each row's tokens begin and the last row's end, int64, (n + 1,)."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Cost of each row in tokens, int64, (n,)."""
        ...

    @property
    def num_tokens(self) -> int:
        """Cost of all rows in tokens."""
        ...

    def select(self, rows: NDArray[np.int64]) -> Self:
        """Return the given rows in the given order.

        Args:
            rows: row indices, int64, (m,).
        """
        ...

    def token_index(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of the given rows' tokens, one row after the other, int64, (their tokens,)."""
        ...

    def tensors(self, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Return the named tensors, packed: the first axis is tokens, or rows.

        Raises:
            KeyError: the batch has no tensor of one of these names.
        """
        ...
