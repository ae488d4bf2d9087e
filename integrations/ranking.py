"""`best`: the order of documents by their scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["best"]


def best(scores: NDArray[np.float32], count: int | None) -> list[int]:
    """Return the indices of the highest scores, highest first; equal scores keep their order.

    Args:
        scores: float32, (n,).
        count: largest number of indices; None returns all.
    """
    return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]
