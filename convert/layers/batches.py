"""The batches that layers are compared on: few, but of every shape that can go wrong on its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from fletcher.runtime.tokenizing.tokenizer import vocabulary_size

from ..texts import text_of_length

__all__ = ["LONGEST", "plan_batches"]

#: Tokens of the longest text. Scores take 4 bytes · heads · layers · tokens² for each of four points: 150 MB for twelve
#: layers of twelve heads. Whole vectors of longer texts are what `verify` without --layers compares.
LONGEST = 256

#: Tokens of the texts that spread over the vocabulary.
SPREAD = 96

#: Texts of the user that are looked into; `verify` without --layers takes all.
USER_TEXTS = 16

#: Most texts in a batch.
BATCH = 7

Rows = list[list[int]]


def plan_batches(
    tokenizer: Tokenizer,
    max_tokens: int,
    texts: Sequence[str],
    shape: tuple[int, int] | None = None,
    unseen_tail: int | None = None,
) -> list[Rows]:
    """Token ids of each text of each batch: alone and short, alone and long, two, three alike, seven of mixed lengths.

    Where queries are filled up, then two that are.

    Args:
        tokenizer: the artifact's.
        max_tokens: longest input of the model.
        texts: the user's, put behind the built-in ones.
        shape: most texts of a batch and most tokens of a text, where the graph's shape is fixed.
        unseen_tail: id of the token that queries are filled up with, if none attends to it.
    """
    most, longest = shape or (BATCH, LONGEST)
    longest = min(max_tokens, longest)
    size = vocabulary_size(tokenizer)

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    def row(length: int, start: int) -> list[int]:
        wanted = min(length, longest)
        ids: list[int] = tokenizer.encode(text_of_length(wanted, count, start=start)).ids
        return ids[:longest]

    mixed = [row(length, start) for start, length in enumerate((12, 3, 33, 7, 21), 1)]
    users = [tokenizer.encode(text).ids[:longest] for text in texts[:USER_TEXTS]]
    batches = [
        [row(1, 0)[:1]],
        [row(longest, 3)],
        [row(2, 0), row(40, 5)],
        [row(7, start) for start in (2, 4, 9)],
        [*mixed, *_spread(size, min(longest, SPREAD))],
        *(users[first : first + BATCH] for first in range(0, len(users), BATCH)),
    ]
    if unseen_tail is not None:
        batches.append([[*row(length, length), *[unseen_tail] * 3][:longest] for length in (3, 8)])
    filled = [[ids for ids in batch if ids] for batch in batches]
    return [batch[first : first + most] for batch in filled for first in range(0, len(batch), most)]


def _spread(size: int, longest: int) -> Rows:
    """Ids from the whole vocabulary, in order and mixed up: what the built-in texts never use is seen, too."""
    ids = np.unique(np.linspace(0, size - 1, longest).astype(np.int64))
    return [ids.tolist(), np.random.default_rng(0).permutation(ids)[: longest // 2 + 1].tolist()]
