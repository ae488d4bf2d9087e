"""`StoredTensor`: a tensor inside a file of weights, which is mapped into memory when it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = ["StoredTensor"]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Tensor as it is stored.

    Attributes:
        name: name in the checkpoint.
        shape: its shape.
        dtype: its element type.
        file: file that holds it.
        start: offset of its first byte.
        strides: distance of neighbors along each axis, in elements, if they are not those of a contiguous array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: Path
    start: int
    strides: tuple[int, ...] | None = None

    def read(self) -> NDArray[Any]:
        """Return the tensor, memory-mapped and read-only."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        if self.strides is None:
            return np.memmap(self.file, self.dtype, "r", self.start, self.shape)
        extent = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        elements = np.memmap(self.file, self.dtype, "r", self.start, (extent,))
        steps = tuple(stride * self.dtype.itemsize for stride in self.strides)
        return as_strided(elements, self.shape, steps, writeable=False)

    def parts(self, elements: int) -> Iterator[NDArray[Any]]:
        """Yield the tensor's elements in their order, some at a time, as vectors.

        Each part is mapped by itself, because pages stay in memory as long as their mapping.
        """
        if self.strides is not None:
            yield self.read().reshape(-1)
            return
        total = math.prod(self.shape)
        for first in range(0, total, elements):
            count = min(elements, total - first)
            yield replace(self, shape=(count,), start=self.start + first * self.dtype.itemsize).read()
