"""Batches for the comparison of layers: few, but of every shape that can fail on its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from fletcher.runtime.tokenizing.tokenizer import vocabulary_size

from ..texts import text_of_length

__all__ = ["LONGEST", "plan_batches"]

#: Tokens of the longest text. Scores take 4 bytes · heads · layers · tokens² for each of four points: 150 MB for twelve
#: layers of twelve heads. `verify` without --layers compares the vectors of longer texts.
LONGEST = 256

#: Tokens of the texts whose ids are spread over the vocabulary.
SPREAD = 96

#: Largest number of the user's texts; `verify` without --layers compares all.
USER_TEXTS = 16

#: Largest number of texts in a batch.
BATCH = 7

Rows = list[list[int]]


def plan_batches(
    tokenizer: Tokenizer,
    max_tokens: int,
    texts: Sequence[str],
    shape: tuple[int, int] | None = None,
    unseen_tail: int | None = None,
) -> list[Rows]:
    """Return the token ids of each text of each batch.

    The batches are one short text, one long text, two texts, three of equal length, seven of mixed lengths, the user's texts,
    and two filled queries if the model fills queries.

    Args:
        tokenizer: tokenizer of the artifact.
        max_tokens: longest input of the model.
        texts: the user's texts, compared after the built-in ones.
        shape: largest number of texts and of tokens, for a graph of fixed shape.
        unseen_tail: id of the token that fills queries, if no token attends to it.
    """
    most, longest = shape or (BATCH, LONGEST)
    longest = min(max_tokens, longest)
    size = vocabulary_size(tokenizer)

    def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    def row(length: int, start: int) -> list[int]:
        ids: list[int] = tokenizer.encode(text_of_length(min(length, longest), count, start=start)).ids
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
    """Return ids from the whole vocabulary, sorted and shuffled, so that ids that no built-in text uses are compared too."""
    ids = np.unique(np.linspace(0, size - 1, longest).astype(np.int64))
    return [ids.tolist(), np.random.default_rng(0).permutation(ids)[: longest // 2 + 1].tolist()]
