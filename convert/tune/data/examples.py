"""`Examples`: pairs, triplets and scored pairs from rows of a file. It knows no split and no model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fletcher.runtime.errors import InputError

from .rows import Row, read_rows

__all__ = [
    "FEWEST",
    "Example",
    "Examples",
    "make_examples",
    "read_examples",
    "read_positive_pairs",
    "read_training_texts",
]

#: Fewest different examples: a tenth of them is held out, and half of that validates.
FEWEST = 50

#: Names of columns that are known, by role.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "anchor", "question", "sentence1", "text1", "first", "sentence_a"),
    "positive": ("positive", "answer", "document", "sentence2", "text2", "second", "sentence_b"),
    "negative": ("negatives", "negative"),
    "score": ("score", "label", "similarity"),
    "group": ("group", "document_id"),
    "text": ("text", "sentence", "content"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """`Example`: texts that belong together, or a pair of texts with a score.

    Attributes:
        query: the first text.
        positive: the text that belongs to it, or the second text of a scored pair.
        negatives: texts that do not belong to the query, the hardest first; often empty.
        score: similarity by people or by another model; None for texts that belong together.
        group: name of a group, such as a document, whose examples stay on one side of a split; None without groups.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    score: float | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Examples:
    """`Examples`: different examples of a file.

    Attributes:
        kind: `pairs`, `triplets` if an example has negatives, or `scored`.
        items: the examples.
        copies: examples that equal an earlier one, and are not among them.
    """

    kind: Literal["pairs", "triplets", "scored"]
    items: tuple[Example, ...]
    copies: int

    def __len__(self) -> int:
        return len(self.items)


def read_examples(path: Path) -> Examples:
    """Read examples: columns for a query and a positive, and optional ones for negatives, a score or a group.

    `negative_1`, `negative_2`, … are negatives, too. The names of columns are those of `COLUMNS`.

    Raises:
        InputError: the file cannot be read, or its examples cannot be trained on; see `make_examples`.
    """
    return make_examples(str(path), read_rows(path))


def make_examples(name: str, rows: Sequence[Row]) -> Examples:
    """Return the examples of rows, and check that they can be trained on.

    Args:
        name: source of the rows, for messages.
        rows: places and values.

    Raises:
        InputError: a column is missing, a text is empty or a score is not a finite number; there are too few different
            examples; all have one query; a query equals its positive in all of them; or all scores are equal.
    """
    if not rows:
        raise InputError(f"{name} has no row")
    columns = _columns(rows)
    first, second = (_column(name, columns, role) for role in ("query", "positive"))
    negatives = [one for one in columns if one in COLUMNS["negative"] or one.startswith("negative_")]
    score, group = (next((one for one in COLUMNS[role] if one in columns), None) for role in ("score", "group"))
    items: dict[Example, None] = {}
    for place, row in rows:
        example = Example(
            query=_text(place, row, first),
            positive=_text(place, row, second),
            negatives=_negatives(place, row, negatives),
            score=None if score is None else _score(place, row, score),
            group=_group(row, group),
        )
        items[example] = None
    found = tuple(items)
    if len(found) < FEWEST:
        copies = len(rows) - len(found)
        raise InputError(
            f"{name} has {len(found)} different examples ({copies} copies), and at least {FEWEST} are needed to train, to "
            "validate and to test"
        )
    scores = {one.score for one in found}
    if len(scores) == 1 and None not in scores:
        raise InputError(
            f"every pair of {name} has the score {found[0].score:g}, from which no order can be learned: give pairs of "
            f"different scores, or remove the column {score} if all pairs belong together"
        )
    if all(one.query == one.positive for one in found):
        raise InputError(f"in every example of {name} both texts are equal, so nothing can be learned")
    if score is None and len({one.query for one in found}) == 1:
        raise InputError(
            f"every example of {name} has one query, so no text belongs to another one: nothing can be learned"
        )
    kind: Literal["pairs", "triplets", "scored"] = "pairs"
    if score is not None:
        kind = "scored"
    elif any(one.negatives for one in found):
        kind = "triplets"
    return Examples(kind, found, len(rows) - len(found))


def read_positive_pairs(path: Path) -> list[Example]:
    """Read texts that belong together, of any number, with their groups. No other column is used; copies count once.

    Raises:
        InputError: the file cannot be read, has no pair, lacks a column, or a text is empty; or the pairs have different
            scores, so that not all of them belong together.
    """
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path} has no pair: put a query and a positive on each line")
    columns = _columns(rows)
    first, second = (_column(str(path), columns, role) for role in ("query", "positive"))
    group = next((one for one in COLUMNS["group"] if one in columns), None)
    score = next((one for one in COLUMNS["score"] if one in columns), None)
    if score is not None and len({row.get(score) for _, row in rows}) > 1:
        raise InputError(
            f"{path} has pairs of different {score}, and every pair must belong together here: keep the lines that do, and "
            f"remove the column {score}"
        )
    pairs: dict[tuple[str, str], Example] = {}
    for place, row in rows:
        query, positive = _text(place, row, first), _text(place, row, second)
        pairs.setdefault((query, positive), Example(query, positive, group=_group(row, group)))
    return list(pairs.values())


def read_training_texts(path: Path) -> tuple[list[str], int]:
    """Read unlabelled texts, and return the different ones and the number of copies. Empty texts are an error.

    Raises:
        InputError: the file cannot be read, has no column of texts, has an empty text, or too few different ones.
    """
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path} has no row")
    column = _column(str(path), _columns(rows), "text")
    texts = list(dict.fromkeys(_text(place, row, column) for place, row in rows))
    if len(texts) < FEWEST:
        raise InputError(
            f"{path} has {len(texts)} different texts ({len(rows) - len(texts)} copies), and at least {FEWEST} are needed to "
            "train, to validate and to test"
        )
    return texts, len(rows) - len(texts)


def _columns(rows: Sequence[Row]) -> dict[str, None]:
    """Return the columns of all rows: a line of JSON may have others than the first one."""
    return dict.fromkeys(column for _, row in rows for column in row)


def _column(name: str, columns: Mapping[str, Any], role: str) -> str:
    found = next((one for one in COLUMNS[role] if one in columns), None)
    if found is None:
        raise InputError(
            f"{name} has the columns {', '.join(columns)}, and none for a {role}: name it {' or '.join(COLUMNS[role])}"
        )
    return found


def _text(place: str, row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{place}: {column} is {value!r}, and must be a text")
    if value is None or not value.strip():
        raise InputError(f"{place}: {column} is empty: write the text, or remove the row")
    return value


def _negatives(place: str, row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for column in columns:
        value = row.get(column)
        for one in value if isinstance(value, list) else [value]:
            if one is None:  # a row may have fewer negatives than others
                continue
            if not isinstance(one, str) or not one.strip():
                raise InputError(f"{place}: {column} has {one!r}, and must have texts")
            found.append(one)
    return tuple(dict.fromkeys(found))


def _group(row: Mapping[str, Any], column: str | None) -> str | None:
    value = None if column is None else row.get(column)
    return None if value is None else str(value)


def _score(place: str, row: Mapping[str, Any], column: str) -> float:
    try:
        score = float(row[column])
    except (KeyError, TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{place}: {column} is {row.get(column)!r}, and must be a finite number")
    return score
