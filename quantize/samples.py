"""Samples that depend on nothing but the number of items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["evenly_spaced"]


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of `count` indices, evenly spaced with the first and the last, ascending; all if they are few.

    Args:
        count: number of items; none gives no index.
        most: largest number of indices, at least 1.
    """
    return np.unique(np.linspace(0, count - 1, min(most, count), dtype=np.int64))
