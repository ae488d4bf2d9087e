"""Texts, labels, queries and judgments of a quality report, and the files that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError

from ..texts import read_texts

__all__ = ["FEWEST_TEXTS", "Corpus", "QualityTexts", "make_texts", "read_corpus", "read_judgments", "read_labels"]

#: Fewest different texts: of every second one, ten neighbors should be a part.
FEWEST_TEXTS = 50


@dataclass(frozen=True, slots=True)
class Corpus:
    """`Corpus`: texts of a file with their ids.

    Attributes:
        ids: id of each text: `_id` or `id` in jsonl, else the number of its line, from 1.
        texts: the texts; a `title` in jsonl comes first, followed by a blank, as in BEIR.
        labels: label of each text, from `label` in jsonl; None where there is none.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class QualityTexts:
    """`QualityTexts`: the texts of a quality report.

    Attributes:
        name: source of the texts, for the report.
        corpus: all texts.
        different: different texts that are not empty, in their order.
        rows: row among the different texts of each text of the corpus; -1 for an empty one.
        labels: label of each different text, that of its first occurrence; None without labels.
        queries: queries; None without them.
        judgments: relevance by text id, by query id; empty without queries.
    """

    name: str
    corpus: Corpus
    different: tuple[str, ...]
    rows: tuple[int, ...]
    labels: tuple[str | None, ...] | None
    queries: Corpus | None
    judgments: Mapping[str, Mapping[str, int]]


class _Line(msgspec.Struct, frozen=True):
    """A line of jsonl. Its other keys are not read."""

    text: str
    beir_id: str | int | None = msgspec.field(default=None, name="_id")
    id: str | int | None = None
    title: str | None = None
    label: str | int | None = None


def read_corpus(path: str | Path) -> Corpus:
    """Read a file of texts: jsonl with `text` and optional `_id` or `id`, `title` and `label`, or a text on each line.

    Raises:
        InputError: the file cannot be read, a line is not such an object, it has no text, or two texts have one id.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        texts = read_texts(path)
        return Corpus(tuple(str(number) for number in range(1, len(texts) + 1)), tuple(texts), (None,) * len(texts))
    ids, found, labels = [], [], []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            item = decode_json(line, _Line)
        except msgspec.DecodeError as error:
            raise InputError(f'{path}, line {number}: {error}. Each line must be like {{"text": "…"}}') from error
        name = item.id if item.beir_id is None else item.beir_id
        ids.append(str(number if name is None else name))
        found.append(f"{item.title} {item.text}" if item.title else item.text)
        labels.append(None if item.label is None else str(item.label))
    if not found:
        raise InputError(f"{path} holds no text: put an object with a text on each line")
    if len(set(ids)) < len(ids):
        twice = next(name for index, name in enumerate(ids) if name in ids[:index])
        raise InputError(f"{path}: two texts have the id {twice!r}: give every text an id of its own")
    return Corpus(tuple(ids), tuple(found), tuple(labels))


def read_labels(path: str | Path, count: int) -> tuple[str | None, ...]:
    """Read a label for each text, one on each line; an empty line is a text without a label.

    Args:
        path: the file.
        count: number of texts.

    Raises:
        InputError: the file cannot be read, or has another number of lines.
    """
    lines = [line.strip() or None for line in _lines(Path(path))]
    if len(lines) != count:
        raise InputError(f"{path} has {len(lines)} lines, and there are {count} texts: write one label for each text")
    return tuple(lines)


def read_judgments(path: str | Path) -> dict[str, dict[str, int]]:
    """Read judgments: `query id, text id, relevance` as in BEIR, or `query id, 0, text id, relevance` as in TREC.

    Columns are separated by tabs or blanks. A first line whose last column is not a number is a heading.

    Raises:
        InputError: the file cannot be read, or a line is another one.

    Returns:
        Relevance by text id, by query id; 0 is not relevant.
    """
    path = Path(path)
    judgments: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_lines(path), 1):
        parts = line.split("\t") if "\t" in line else line.split()
        if not line.strip():
            continue
        try:
            relevance = int(parts[-1])
        except ValueError:
            if number == 1:
                continue
            raise InputError(f"{path}, line {number}: the relevance {parts[-1]!r} is not a whole number") from None
        if len(parts) not in (3, 4):
            raise InputError(
                f"{path}, line {number} has {len(parts)} columns: write a query id, a text id and a relevance, separated "
                "by tabs"
            )
        judgments.setdefault(parts[0], {})[parts[-2]] = relevance
    if not any(grade > 0 for graded in judgments.values() for grade in graded.values()):
        raise InputError(f"{path} has no judgment above 0, so no text is relevant to a query")
    return judgments


def make_texts(
    corpus: Corpus,
    *,
    name: str,
    labels: Sequence[str | None] | None = None,
    queries: Corpus | None = None,
    judgments: Mapping[str, Mapping[str, int]] | None = None,
) -> QualityTexts:
    """Put the inputs of a report together, and check them.

    Args:
        corpus: the texts.
        name: source of the texts.
        labels: label of each text. Default: those of the corpus, if it has any.
        queries: queries, which need judgments.
        judgments: relevance by text id, by query id.

    Raises:
        InputError: there are too few different texts, queries without judgments or the reverse, or judgments name no known
            query or text.
    """
    places: dict[str, int] = {}
    rows = tuple(places.setdefault(text, len(places)) if text.strip() else -1 for text in corpus.texts)
    different = tuple(places)
    if len(different) < FEWEST_TEXTS:
        empty = rows.count(-1)
        raise InputError(
            f"{name} has {len(different)} different texts ({len(corpus.texts)} in all, {empty} of them empty), and at least "
            f"{FEWEST_TEXTS} are needed: ten neighbors of fewer texts say nothing"
        )
    labels = corpus.labels if labels is None and any(corpus.labels) else labels
    if (queries is None) != (judgments is None):
        raise InputError("--queries and --judgments belong together: give both, or neither")
    if queries is not None and judgments is not None:
        queries = _judged_queries(queries, judgments, corpus)
    return QualityTexts(
        name=name,
        corpus=corpus,
        different=different,
        rows=rows,
        labels=None if labels is None else _of_first(labels, rows),
        queries=queries,
        judgments=judgments or {},
    )


def _of_first(labels: Sequence[str | None], rows: Sequence[int]) -> tuple[str | None, ...]:
    """Return the label of each different text: that of its first occurrence."""
    first: dict[int, str | None] = {}
    for row, label in zip(rows, labels, strict=True):
        first.setdefault(row, label)
    first.pop(-1, None)
    return tuple(first[row] for row in range(len(first)))


def _judged_queries(queries: Corpus, judgments: Mapping[str, Mapping[str, int]], corpus: Corpus) -> Corpus:
    """Return the queries that have a judgment of a known text.

    Raises:
        InputError: none has one, or a query is empty.
    """
    known = set(corpus.ids)
    kept = [
        row
        for row, name in enumerate(queries.ids)
        if any(grade > 0 and document in known for document, grade in judgments.get(name, {}).items())
    ]
    if not kept:
        raise InputError(
            "no query has a judgment above 0 of one of the texts: the ids in the judgments must be those of the queries and "
            f"of the texts, such as {queries.ids[0]!r} and {corpus.ids[0]!r}"
        )
    if empty := [queries.ids[row] for row in kept if not queries.texts[row].strip()]:
        raise InputError(f"the query {empty[0]!r} is empty: write its text, or remove it")
    ids, texts = (tuple(part[row] for row in kept) for part in (queries.ids, queries.texts))
    return Corpus(ids, texts, (None,) * len(kept))


def _lines(path: Path) -> list[str]:
    """Return the lines of a file.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): convert the file first") from error
    lines = content.removeprefix("\ufeff").split("\n")
    return [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
