"""`split_without_leaks`: a split into training, validation and test whose sides have no near-duplicates of each other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import InputError

from ..options import SplitOptions

__all__ = ["FEWEST_HELD_OUT", "Split", "SplitTexts", "split_without_leaks"]

#: Fewest examples of the validation and of the test: the interval of a figure of fewer says nothing.
FEWEST_HELD_OUT = 10

#: Texts that are compared with all others at a time.
CHUNK = 1024

TRAIN, VALIDATION, TEST = 0, 1, 2

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class SplitTexts:
    """`SplitTexts`: the texts that decide on which side an example may be.

    Attributes:
        keys: the texts of each example that must not be on two sides.
        places: row in `vectors` of each text.
        vectors: vectors of the texts, of length 1, float32, (texts, dimension).
        groups: name of a group that stays on one side, for each example; None for none. Empty without groups.
    """

    keys: Sequence[Sequence[str]]
    places: Mapping[str, int]
    vectors: NDArray[np.float32]
    groups: Sequence[str | None] = field(default=())


@dataclass(frozen=True, slots=True)
class Split:
    """`Split`: rows of the examples on each side.

    Attributes:
        train: rows to train on, ascending.
        validation: rows that choose the best step.
        test: rows that the report measures.
        moved: rows that were drawn for validation or test, and moved to the training because of a near-duplicate there.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    moved: int

    def parts(self, items: Sequence[Item]) -> tuple[list[Item], list[Item], list[Item]]:
        """Return the examples to train on, to validate with, and of the test."""
        train, validation, test = ([items[row] for row in rows] for rows in (self.train, self.validation, self.test))
        return train, validation, test


def split_without_leaks(texts: SplitTexts, options: SplitOptions, seed: int) -> Split:
    """Split examples. Those that share a text, apart from case and blanks, or a group stay together.

    Sides are drawn at random. Then a held-out group moves to the training if one of its texts is a near-duplicate of a text
    on another side, until there is none.

    Args:
        texts: the texts of the examples and their vectors.
        options: sizes and threshold.
        seed: seed of the draw.

    Raises:
        InputError: too few examples remain for validation or test.
    """
    keys = texts.keys
    groups = _groups(texts)
    sides = _draw(groups, len(keys), options, seed)
    drawn = int((sides[groups] != TRAIN).sum())
    owners: dict[int, set[int]] = {}
    for row, found in enumerate(keys):
        for text in found:
            owners.setdefault(texts.places[text], set()).add(int(groups[row]))
    pairs = _near_pairs(owners, texts.vectors, sides, options.duplicate_cosine)
    # Near-duplicates on one held-out side count, too: when one of them moves, the other one must follow.
    changed = True
    while changed:
        changed = False
        for one, other in pairs:
            if sides[one] != sides[other]:
                sides[[one, other]] = TRAIN
                changed = True
    by_row = sides[groups]
    train, validation, test = (tuple(np.flatnonzero(by_row == side).tolist()) for side in (TRAIN, VALIDATION, TEST))
    if min(len(validation), len(test)) < FEWEST_HELD_OUT or not train:
        raise InputError(
            f"of {len(keys)} examples {drawn} were held out, and {len(validation)} for validation and {len(test)} for the "
            f"test have no near-duplicate (cosine {options.duplicate_cosine:g}) among the others; at least {FEWEST_HELD_OUT} "
            "are needed: give more or more different data, or raise --held-out or --duplicate-cosine"
        )
    return Split(train, validation, test, drawn - len(validation) - len(test))


def _groups(texts: SplitTexts) -> NDArray[np.int64]:
    """Return a number for each example, equal for those that share a text or a group, also through others (union-find)."""
    parents = list(range(len(texts.keys)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, found in enumerate(texts.keys):
        marks = [("text", " ".join(text.split()).casefold()) for text in found]
        if texts.groups and (group := texts.groups[row]) is not None:
            marks.append(("group", group))
        for mark in marks:
            parents[root(row)] = root(first.setdefault(mark, row))
    roots = [root(row) for row in range(len(parents))]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _draw(groups: NDArray[np.int64], count: int, options: SplitOptions, seed: int) -> NDArray[np.int64]:
    """Return a side for each group: half of the held-out examples validates. Groups that are too large are trained on."""
    sizes = np.bincount(groups)
    each = max(min(round(count * options.held_out), options.most_held_out) // 2, FEWEST_HELD_OUT)
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    sides = np.zeros(len(sizes), np.int64)
    wanted = {TEST: each, VALIDATION: each}
    for group in order:
        side = max(wanted, key=lambda one: wanted[one])
        if 0 < sizes[group] <= wanted[side]:
            sides[group] = side
            wanted[side] -= int(sizes[group])
        if not any(wanted.values()):
            break
    return sides


def _near_pairs(
    owners: dict[int, set[int]], vectors: NDArray[np.float32], sides: NDArray[np.int64], cosine: float
) -> list[tuple[int, int]]:
    """Return the pairs of a held-out group and any other group that have near-duplicates."""
    held = np.array([row for row, found in owners.items() if any(sides[group] != TRAIN for group in found)], np.int64)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(held), CHUNK):
        rows = held[start : start + CHUNK]
        queries, documents = np.nonzero(vectors[rows] @ vectors.T >= cosine)
        for row, other in zip(rows[queries].tolist(), documents.tolist(), strict=True):
            pairs.update((one, two) for one in owners[row] for two in owners.get(other, ()) if one != two)
    return sorted(pairs)
