"""Tokenization of pairs of texts into one row of token ids each, the input of rerankers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HuggingFaceTokenizer

from ..encodings import Encodings
from .truncation import Side

__all__ = ["encode_pairs"]

#: Characters of pairs that are tokenized at a time: their tokens take about 200 bytes each until they are cut.
PART_CHARACTERS = 1 << 17


def encode_pairs(
    tokenizer: HuggingFaceTokenizer,
    pairs: Iterable[tuple[str, str]],
    max_tokens: int,
    side: Side = "right",
) -> Encodings:
    """Tokenize pairs. If a pair is too long, its longer text is cut, as transformers does.

    Args:
        tokenizer: tokenizer without truncation and padding.
        pairs: the two texts of each pair.
        max_tokens: largest number of tokens of a row.
        side: end of a text that is cut.
    """
    rows: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    together: list[tuple[str, str]] = []
    characters = 0

    def encode() -> None:
        for pair in tokenizer.encode_batch_fast(together):
            index = _remaining_indices(pair.sequence_ids, max_tokens, side)
            rows.append(np.array(pair.ids, np.int32)[index])
            types.append(np.array(pair.type_ids, np.int32)[index])
            lengths.append(len(pair.ids))
        together.clear()

    # A pair is cut after it is tokenized, and a long query is in every pair, so few characters are tokenized at a time.
    for pair in pairs:
        together.append(pair)
        characters += len(pair[0]) + len(pair[1])
        if characters > PART_CHARACTERS:
            encode()
            characters = 0
    encode()
    encodings = Encodings.from_lists(rows)
    dropped = np.array(lengths, np.int64) - encodings.lengths
    all_types = np.concatenate(types) if types else np.zeros(0, np.int32)
    return Encodings(encodings.ids, encodings.offsets, dropped.astype(np.int32), all_types)


def _remaining_indices(sequence_ids: Sequence[int | None], max_tokens: int, side: Side) -> NDArray[np.int64]:
    """Return the indices of the tokens that remain when a pair is cut to `max_tokens`, int64, (tokens,).

    Source: `truncate_encodings` of the tokenizers library, strategy longest first. The longer text is cut to the length that
    the shorter one leaves. If both texts are longer than half of the room, each is cut to half of it.
    """
    sequences = np.array([-1 if sequence is None else sequence for sequence in sequence_ids], np.int64)
    first, second = (int((sequences == sequence).sum()) for sequence in (0, 1))
    room = max(max_tokens - int((sequences == -1).sum()), 0)
    if first + second <= room:
        return np.arange(len(sequences))
    shorter = min(first, second)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    limits = (longer, shorter) if first > second else (shorter, longer)
    places = [np.cumsum(sequences == sequence) for sequence in (0, 1)]  # of each token in its text, from 1
    order = np.stack(places if side == "right" else [first + 1 - places[0], second + 1 - places[1]])
    stays = (sequences == -1) | np.where(sequences == 0, order[0] <= limits[0], order[1] <= limits[1])
    return np.flatnonzero(stays)
