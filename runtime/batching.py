"""Which texts run together. Batches are plain row numbers; nothing here knows of graphs or threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_batches"]


def plan_batches(lengths: NDArray[np.int64], token_budget: int) -> list[NDArray[np.int64]]:
    """Groups texts of similar length into batches of at most `token_budget` tokens, longest first.

    Similar lengths keep the attention's padded squares small (everything else in a packed graph has no padding). The
    longest go first so that the last batches are the cheap ones and workers finish together. A text longer than the budget
    is a batch of its own.

    Args:
        lengths: tokens of each text, int64, (n,).
        token_budget: tokens that a batch should hold.

    Returns:
        Row numbers, int64, of each batch; every row is in exactly one.
    """
    order = np.argsort(-lengths, kind="stable")
    totals = np.cumsum(lengths[order])
    batches = []
    start = 0
    while start < len(order):
        base = totals[start - 1] if start else 0
        end = max(int(np.searchsorted(totals, base + token_budget, side="right")), start + 1)
        batches.append(order[start:end])
        start = end
    return batches
