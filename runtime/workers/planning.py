"""Planning of batches: grouping of rows that are computed together. A batch is an array of row numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..artifact.memory_shape import MemoryShape

__all__ = ["chunk_places", "plan_batches"]

#: Largest size of a batch padded to its longest text, as a multiple of the token budget. Attention is computed on the padded
#: batch. Without a bound, one text of 512 tokens and 512 texts of one token would become 513 rows of 512 tokens, which takes
#: hundreds of times the work and the memory.
PADDED_BUDGETS = 2


def chunk_places(count: int, most: int) -> list[slice]:
    """Cut a long sequence into chunks that grow from an eighth of `most` to `most`, so that the first one is ready early.

    Args:
        count: number of elements of the sequence.
        most: largest number of elements of a chunk. The last chunk may have up to half of `most` more, so that no very small
            chunk follows it.
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
    """Group texts of similar length into batches of at most `token_budget` tokens, longest texts first.

    Similar lengths keep the padding in attention small; the other parts of a packed graph have no padding. The longest texts
    come first, so that the last batches are cheap and the workers finish at about the same time. A new batch begins if the
    batch, padded to its longest text, would hold more than `PADDED_BUDGETS` token budgets. A text that is longer than the
    budget is a separate batch. If memory is limited, batches of long texts have fewer texts.

    Args:
        lengths: number of tokens of each text, int64, (n,).
        token_budget: tokens that a batch should hold.
        memory: memory that a batch of the graph needs; None if memory is not limited.
        limit: bytes that a batch may need; None if memory is not limited. A single text is always a batch, even above the
            limit.
        finishing: number of devices that should finish together. If it is above 1, the last batches hold fewer tokens, down
            to a quarter of the budget, so that no device computes a large batch while the others are idle.

    Returns:
        Row numbers of each batch, int64. Every row is in exactly one batch.
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
    """Return row numbers by decreasing length; rows of equal length keep their order."""
    negative = -lengths
    if len(lengths) and int(negative.min()) >= np.iinfo(np.int16).min:
        negative = negative.astype(np.int16)  # numpy sorts 16-bit integers by radix sort, which is faster
    order: NDArray[np.int64] = np.argsort(negative, kind="stable")
    return order
