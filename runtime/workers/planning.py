"""Planning of batches: grouping rows that run together. Batches are plain row numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..artifact.memory_shape import MemoryShape

__all__ = ["chunk_places", "plan_batches"]

#: How many times the token budget the padded rectangle of attention may hold. Without a bound, one text of 512 tokens and
#: 512 of one token would attend in 513 rows of 512: hundreds of times the work and the memory.
PADDED_BUDGETS = 2


def chunk_places(count: int, most: int) -> list[slice]:
    """Cut a long sequence into chunks that grow from an eighth to `most`, so that the first one is soon tokenized.

    Args:
        count: how many there are.
        most: of a chunk; the last one takes a rest of less than half of that besides.
    """
    places, start, size = [], 0, max(most // 8, 1)
    while start < count:
        stop = start + size
        if count - stop < most // 2:
            stop = count
        places.append(slice(start, stop))
        start, size = stop, min(2 * size, most)
    return places


def plan_batches(
    lengths: NDArray[np.int64],
    token_budget: int,
    memory: MemoryShape | None = None,
    limit: int | None = None,
    *,
    finishing: int = 1,
) -> list[NDArray[np.int64]]:
    """Group texts of similar length into batches of at most `token_budget` tokens, longest first.

    Similar lengths keep the attention's padded squares small (everything else in a packed graph has no padding). The
    longest go first so that the last batches are the cheap ones and workers finish together. Where the next text is much
    shorter, so that padded to the longest the batch would hold more than `PADDED_BUDGETS` budgets, a new batch begins. A
    text longer than the budget is a batch of its own. Long texts take less memory a batch where that is bounded.

    Args:
        lengths: tokens of each text, int64, (n,).
        token_budget: tokens that a batch should hold.
        memory: what the graph needs of a batch, where that is bounded.
        limit: bytes that a batch may need; one text is a batch whatever it needs.
        finishing: devices that are to finish together. With several, the last batches hold fewer tokens, down to a quarter of
            the budget, so that none computes a large one while the others have nothing left.

    Returns:
        Row numbers, int64, of each batch; every row is in exactly one.
    """
    if len(lengths) == 1:
        return [np.zeros(1, np.int64)]
    order = _longest_first(lengths)
    totals = np.cumsum(lengths[order])
    batches = []
    start = 0
    while start < len(order):
        base = int(totals[start - 1]) if start else 0
        size = token_budget
        if finishing > 1:
            left = int(totals[-1]) - base
            size = min(token_budget, max(left // (2 * finishing), token_budget // 4))
        by_tokens = int(np.searchsorted(totals, base + size, side="right"))
        by_rectangle = start + PADDED_BUDGETS * token_budget // max(int(lengths[order[start]]), 1)
        end = min(by_tokens, by_rectangle)
        if memory is not None and limit is not None:
            end = min(end, start + memory.texts(int(lengths[order[start]]), limit))
        end = max(end, start + 1)
        batches.append(order[start:end])
        start = end
    return batches


def _longest_first(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return row numbers by falling length, equals in their order."""
    negative = -lengths
    if len(lengths) and int(negative.min()) >= np.iinfo(np.int16).min:
        negative = negative.astype(np.int16)  # which numpy sorts by digits
    order: NDArray[np.int64] = np.argsort(negative, kind="stable")
    return order
