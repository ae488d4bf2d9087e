"""`Batch`: rows that a session computes together, independent of the kind of input.

A row is a sequence of tokens: the tokens of a text, or the patches of an image. Planning, memory limits and padding use only
the lengths of the rows. The graph's inputs are named tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch"]


class Batch(Protocol):
    """Rows of tokens without padding. `Encodings` is the batch of texts."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Index of each row's first token, and at the end the number of all tokens, int64, (n + 1,)."""
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
        """Return a batch of the selected rows, in the order of the indices.

        Args:
            rows: row indices, int64, (m,).
        """
        ...

    def token_index(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the indices of the tokens of the selected rows, row by row, int64, (tokens of those rows,)."""
        ...

    def tensors(self, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Return the named tensors without padding: the first axis is tokens, or rows.

        Raises:
            KeyError: the batch has no tensor of one of these names.
        """
        ...
