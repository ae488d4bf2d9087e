"""`MemoryShape`: memory that a batch of a graph needs, as a function of its rows' lengths."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["MemoryFactors", "MemoryShape"]


@dataclass(frozen=True, slots=True)
class MemoryFactors:
    """Multiples of a graph's `MemoryShape`, whose unit is what MLAS needs.

    Attributes:
        token, cell, square, bias: multiples of the shape's fields of these names.
    """

    token: float
    cell: float
    square: float
    bias: float


class MemoryShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that a graph needs at its peak, per unit of a batch.

    Attributes:
        token: bytes for each token of a batch.
        cell: bytes for each place of the rectangle of texts x longest.
        square: bytes for each place of the attention's squares, texts x longest x longest, over all heads.
        bias: bytes for each place of one square of longest x longest, however many texts share it.
    """

    token: int
    cell: int
    square: int
    bias: int = 0

    def scaled(self, factors: MemoryFactors) -> MemoryShape:
        """Return the shape of the same graph on a provider that needs multiples of it."""
        return MemoryShape(
            int(self.token * factors.token),
            int(self.cell * factors.cell),
            int(self.square * factors.square),
            int(self.bias * factors.bias),
        )

    def predict(self, lengths: NDArray[np.int64]) -> int:
        """Return the bytes of one batch at its peak, above the loaded session.

        Args:
            lengths: tokens of each text, int64, (n,).
        """
        longest = int(lengths.max(initial=0))
        cells = len(lengths) * longest
        return self.token * int(lengths.sum()) + cells * (self.cell + self.square * longest) + self.bias * longest**2

    def texts(self, longest: int, limit: int) -> int:
        """Return the number of texts of one length that fit a batch of so many bytes; 0 or less if none fits."""
        each = longest * (self.token + self.cell + self.square * longest)
        return (limit - self.bias * longest**2) // max(each, 1)
