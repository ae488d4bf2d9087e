"""`MemoryShape`: memory that a batch needs, as a function of the lengths of its rows."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["MemoryFactors", "MemoryShape"]


@dataclass(frozen=True, slots=True)
class MemoryFactors:
    """Factors by which a provider's memory differs from a graph's `MemoryShape`, which is that of MLAS.

    Attributes:
        token, cell, square, bias: factors of the shape's fields of these names.
    """

    token: float
    cell: float
    square: float
    bias: float


class MemoryShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Peak memory of a batch, in bytes per unit of its size. `longest` is the number of tokens of the longest text.

    Attributes:
        token: bytes per token of the batch, without padding.
        cell: bytes per cell of the padded batch, texts x longest.
        square: bytes per element of the attention scores, texts x longest x longest, for all heads together.
        bias: bytes per element of the attention bias, longest x longest, which all texts share.
    """

    token: int
    cell: int
    square: int
    bias: int = 0

    def scaled(self, factors: MemoryFactors) -> MemoryShape:
        """Return the shape of the same graph on a provider that needs `factors` times as much."""
        return MemoryShape(
            int(self.token * factors.token),
            int(self.cell * factors.cell),
            int(self.square * factors.square),
            int(self.bias * factors.bias),
        )

    def predict(self, lengths: NDArray[np.int64]) -> int:
        """Return the peak memory of one batch in bytes, without the memory of the loaded session.

        Args:
            lengths: number of tokens of each text, int64, (n,).
        """
        longest = int(lengths.max(initial=0))
        cells = len(lengths) * longest
        return self.token * int(lengths.sum()) + cells * (self.cell + self.square * longest) + self.bias * longest**2

    def texts(self, longest: int, limit: int) -> int:
        """Return the number of texts of `longest` tokens that fit in a batch of `limit` bytes; 0 or less if none fits."""
        each = longest * (self.token + self.cell + self.square * longest)
        return (limit - self.bias * longest**2) // max(each, 1)
