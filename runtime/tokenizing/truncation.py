"""Cutting rows of token ids to a model's longest input, all rows at once. It knows nothing of texts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..encodings import Encodings

__all__ = ["Side", "truncate"]

#: The end of a text that truncation takes away, in transformers' words (`truncation_side`).
Side = Literal["right", "left"]


def truncate(
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    max_tokens: int,
    *,
    prefix: int = 0,
    suffix: int = 0,
    side: Side = "right",
) -> Encodings:
    """Cuts every row to `max_tokens`, keeping the special tokens around it, and counts what it cut.

    Args:
        ids: token ids with their special tokens, int32, (tokens,).
        offsets: where each row begins and the last one ends, int64, (n + 1,).
        max_tokens: longest row.
        prefix: special tokens before a text.
        suffix: special tokens behind it.
        side: which end of the text is cut.
    """
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, max_tokens)
    dropped = lengths - kept
    if not dropped.any():
        return Encodings(ids, offsets, dropped.astype(np.int32))
    places = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)  # of each token in its row
    first = np.full(len(lengths), max_tokens - suffix) if side == "right" else np.full(len(lengths), prefix)
    stays = (places < np.repeat(first, lengths)) | (places >= np.repeat(first + dropped, lengths))
    new_offsets = np.zeros(len(offsets), np.int64)
    np.cumsum(kept, out=new_offsets[1:])
    return Encodings(ids[stays], new_offsets, dropped.astype(np.int32))
