"""Rounding of weights to integers with scales per column, per row and per block. The module knows no graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "STRIP",
    "Blocks",
    "Columns",
    "mean_error",
    "pack_nibbles",
    "round_blocks",
    "round_columns",
    "round_rows",
    "rounded_product",
]

#: Elements that are rounded at once: 16 MB in float32, of which a search has several copies.
STRIP = 4 << 20

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

    def part(self, columns: slice) -> NDArray[np.float32]:
        """Return some columns of the represented matrix, float32, (in, columns)."""
        return self.values[:, columns] * self.scales[columns]


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
        return self.part(slice(None))

    def part(self, columns: slice) -> NDArray[np.float32]:
        """Return some columns of the represented matrix, float32, (in, columns)."""
        centered = self.values[columns].astype(np.float32) - self.zeros[columns, :, None]
        whole = (centered * self.scales[columns, :, None]).reshape(len(centered), -1)
        return np.ascontiguousarray(whole[:, : self.rows].T)


def round_columns(weight: NDArray[np.float32], *, limit: int = 127, search: bool = False) -> Columns:
    """Round each column to integers from -limit to limit.

    Args:
        weight: the matrix, (in, out).
        limit: 127, or 63 for a reduced range.
        search: whether each column has the range with the least squared error, instead of the largest element's.
    """
    values, scales = np.empty(weight.shape, np.int8), np.empty(weight.shape[1], np.float32)
    for part in _strips(weight):
        values[:, part], scales[part] = _round_columns(weight[:, part], limit, search=search)
    return Columns(values, scales)


def _round_columns(
    weight: NDArray[np.float32], limit: int, *, search: bool
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return codes, (in, out), and scales, (out,)."""
    weight = np.asarray(weight, np.float32)
    largest = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny)
    best, least = largest / np.float32(limit), np.full(weight.shape[1], np.inf)
    for shrink in SHRINK if search else SHRINK[:1]:
        scales = (largest * np.float32(shrink) / np.float32(limit)).astype(np.float32)
        error = np.square(np.clip(np.rint(weight / scales), -limit, limit) * scales - weight).sum(axis=0)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    scales = best.astype(np.float32)
    return np.clip(np.rint(weight / scales), -limit, limit).astype(np.int8), scales


def round_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a table to int8 with one scale per row, and return codes, (rows, columns), and scales, (rows, 1)."""
    codes, scales = np.empty(table.shape, np.int8), np.empty((len(table), 1), np.float32)
    for part in _strips(table.T):
        rows = table[part]
        largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        scales[part] = largest / np.float32(127)
        codes[part] = np.rint(rows / scales[part])
    return codes, scales


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
    sides = (columns, -(-rows // block))
    values, zeros = np.empty((*sides, block), np.uint8), np.empty(sides, np.uint8)
    scales = np.empty(sides, np.float32)
    for part in _strips(weight):
        padded = np.zeros((part.stop - part.start, sides[1] * block), np.float32)
        padded[:, :rows] = weight[:, part].T
        blocks = padded.reshape(len(padded), -1, block)
        values[part], scales[part], zeros[part] = _round_blocks(blocks, bits, asymmetric=asymmetric, search=search)
    return Blocks(values, scales, zeros, rows)


def _round_blocks(
    blocks: NDArray[np.float32], bits: int, *, asymmetric: bool, search: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return codes, (columns, blocks, block), scales and zero points, (columns, blocks), as float32."""
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
    return np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top), scales, zeros


def mean_error(mean: NDArray[Any], weight: NDArray[np.float32], rounded: Columns | Blocks) -> NDArray[np.float64]:
    """Return the error of a product's mean that the rounding of its weight makes: mean · (weight - rounded), (out,).

    Args:
        mean: mean of each column of the activations, (in,).
        weight: the weight, (in, out).
        rounded: the rounded weight.
    """
    factors = mean.astype(np.float64)
    return np.concatenate([factors @ (weight[:, part] - rounded.part(part)) for part in _strips(weight)])


def rounded_product(factors: NDArray[np.float64], rounded: Columns) -> NDArray[np.float64]:
    """Return factors · rounded, (out,), for factors (in,), without the whole rounded matrix in floats."""
    return np.concatenate([factors @ rounded.part(part) for part in _strips(rounded.values)])


def _strips(weight: NDArray[Any]) -> list[slice]:
    """Return ranges of columns that have about `STRIP` elements together, so that copies of them take little memory."""
    rows, columns = weight.shape
    step = max(1, STRIP // max(1, rows))
    return [slice(start, min(start + step, columns)) for start in range(0, columns, step)]


def pack_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack two elements per byte along the last axis, the first in the low bits; an odd last element has its own byte."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    return np.asarray(values[..., ::2] | (values[..., 1::2] << 4), np.uint8)


def _nonzero(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(scales == 0, np.float32(1), scales)
