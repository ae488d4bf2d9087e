"""Truncation of rows of token ids to a model's longest input, all rows at once."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..encodings import Encodings

__all__ = ["Side", "truncate"]

#: End of a text that truncation removes, as in transformers' `truncation_side`.
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
    """Cut every row to `max_tokens`, keeping the special tokens around it, and count the tokens that are cut.

    Args:
        ids: token ids with their special tokens, int32, (tokens,).
        offsets: index of each row's first id, and at the end the number of all ids, int64, (n + 1,).
        max_tokens: largest number of tokens of a row.
        prefix: number of special tokens before a text.
        suffix: number of special tokens behind a text.
        side: end of the text that is cut.
    """
    lengths = np.diff(offsets)
    new_lengths = np.minimum(lengths, max_tokens)
    dropped = lengths - new_lengths
    if not dropped.any():
        return Encodings(ids, offsets, dropped.astype(np.int32))
    places = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)  # index of each token in its row
    first = np.full(len(lengths), max_tokens - suffix) if side == "right" else np.full(len(lengths), prefix)
    stays = (places < np.repeat(first, lengths)) | (places >= np.repeat(first + dropped, lengths))
    new_offsets = np.zeros(len(offsets), np.int64)
    np.cumsum(new_lengths, out=new_offsets[1:])
    return Encodings(ids[stays], new_offsets, dropped.astype(np.int32))
