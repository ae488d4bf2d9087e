"""Rounding of weights to integers with scales per column, per row and per block. The module knows no graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "Columns", "pack_nibbles", "round_blocks", "round_columns", "round_rows"]

#: Ends of the range that a search tries, relative to the largest element.
SHRINK = np.linspace(1.0, 0.6, 21)


@dataclass(frozen=True, slots=True)
class Columns:
    """`Columns`: a matrix in int8 with one scale per column.

    Attributes:
        values: int8, (in, out).
        scales: float32, (out,).
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    @property
    def floats(self) -> NDArray[np.float32]:
        """The represented matrix, float32, (in, out)."""
        return self.values * self.scales


@dataclass(frozen=True, slots=True)
class Blocks:
    """`Blocks`: a matrix in blocks of consecutive elements of a column, with one scale and one zero point per block.

    Attributes:
        values: uint8, one element per byte, (out, blocks, block).
        scales: float32, (out, blocks).
        zeros: uint8, (out, blocks).
        rows: elements of a column; the last block may extend beyond them.
    """

    values: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]
    rows: int

    @property
    def floats(self) -> NDArray[np.float32]:
        """The represented matrix, float32, (in, out)."""
        centered = self.values.astype(np.float32) - self.zeros[..., None]
        return np.ascontiguousarray((centered * self.scales[..., None]).reshape(len(centered), -1)[:, : self.rows].T)


def round_columns(weight: NDArray[np.float32], *, limit: int = 127, search: bool = False) -> Columns:
    """Round each column to integers from -limit to limit.

    Args:
        weight: the matrix, (in, out).
        limit: 127, or 63 for a reduced range.
        search: whether each column has the range with the least squared error, instead of the largest element's.
    """
    weight = np.asarray(weight, np.float32)
    largest = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny)
    best, least = largest / np.float32(limit), np.full(weight.shape[1], np.inf)
    for shrink in SHRINK if search else SHRINK[:1]:
        scales = (largest * np.float32(shrink) / np.float32(limit)).astype(np.float32)
        error = np.square(np.clip(np.rint(weight / scales), -limit, limit) * scales - weight).sum(axis=0)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    scales = best.astype(np.float32)
    return Columns(np.clip(np.rint(weight / scales), -limit, limit).astype(np.int8), scales)


def round_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a table to int8 with one scale per row, and return codes, (rows, columns), and scales, (rows, 1)."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(table / scales).astype(np.int8), scales.astype(np.float32)


def round_blocks(
    weight: NDArray[np.float32], *, bits: int, block: int, asymmetric: bool = False, search: bool = False
) -> Blocks:
    """Round each column in blocks.

    Args:
        weight: the matrix, (in, out).
        bits: 4 or 8.
        block: elements per scale.
        asymmetric: whether a block's range goes from its smallest to its largest element, instead of being symmetric.
        search: whether each block has the range with the least squared error, instead of the largest element's.
    """
    rows, columns = weight.shape
    padded = np.zeros((columns, -(-rows // block) * block), np.float32)
    padded[:, :rows] = weight.T
    blocks = padded.reshape(columns, -1, block)
    top = (1 << bits) - 1
    middle = 1 << (bits - 1)
    low, high = np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)
    largest = np.where(high > -low, high, low)  # signed: the larger side gets the extra step
    best = (np.zeros(low.shape, np.float32), np.zeros(low.shape, np.float32))
    least = np.full(low.shape, np.inf)
    for shrink in SHRINK if search else SHRINK[:1]:
        if asymmetric:
            scales = (high - low) * np.float32(shrink) / top
            zeros = np.rint(np.clip(-low * np.float32(shrink) / _nonzero(scales), 0, top))
        else:
            scales = -largest * np.float32(shrink) / middle
            zeros = np.full(low.shape, middle, np.float32)
        scales = _nonzero(scales).astype(np.float32)
        values = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top)
        error = np.square((values - zeros[..., None]) * scales[..., None] - blocks).sum(axis=2)
        better = error < least
        best = (np.where(better, scales, best[0]), np.where(better, zeros, best[1]))
        least = np.minimum(least, error)
    scales, zeros = best[0].astype(np.float32), best[1]
    values = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top)
    return Blocks(values.astype(np.uint8), scales, zeros.astype(np.uint8), rows)


def pack_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack two elements per byte along the last axis, the first in the low bits; an odd last element has its own byte."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    return np.asarray(values[..., ::2] | (values[..., 1::2] << 4), np.uint8)


def _nonzero(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(scales == 0, np.float32(1), scales)
