"""Files of texts, labels, queries and judgments, and the errors of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fletcher.convert.quality.inputs import Corpus, make_texts, read_corpus, read_judgments, read_labels
from fletcher.runtime.errors import InputError

MANY = Corpus(tuple(f"d{row}" for row in range(60)), tuple(f"text {row}" for row in range(60)), (None,) * 60)


def queries(*texts: str) -> Corpus:
    return Corpus(tuple(f"q{row}" for row in range(len(texts))), texts, (None,) * len(texts))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_jsonl_has_ids_titles_and_labels(tmp_path: Path) -> None:
    lines = [
        {"_id": "a", "title": "Title", "text": "body"},
        {"id": 7, "text": "x", "label": 3},
        {"text": "y", "url": "z"},
    ]
    corpus = read_corpus(write(tmp_path / "texts.jsonl", *map(json.dumps, lines)))
    assert corpus == Corpus(("a", "7", "3"), ("Title body", "x", "y"), (None, "3", None))


def test_lines_are_numbered_from_one(tmp_path: Path) -> None:
    assert read_corpus(write(tmp_path / "texts.txt", "a", "", "b")).ids == ("1", "2", "3")


@pytest.mark.parametrize(
    "lines",
    [
        ("query-id\tcorpus-id\tscore", "q0\td1\t1", "q0\td2\t0", "q1\td 3\t2"),  # BEIR
        ("q0\t0\td1\t1", "q0\t0\td2\t0", "q1\t0\td 3\t2"),  # TREC
    ],
)
def test_judgments_in_both_formats(tmp_path: Path, lines: tuple[str, ...]) -> None:
    assert read_judgments(write(tmp_path / "qrels.tsv", *lines)) == {"q0": {"d1": 1, "d2": 0}, "q1": {"d 3": 2}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("q0 d1 1", "q0 d1 much"), "line 2: the relevance 'much'"),
        (("q0 1",), "2 columns"),
        (("q0 d1 0",), "no judgment above 0"),
    ],
)
def test_bad_judgments_are_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_judgments(write(tmp_path / "qrels.tsv", *lines))


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    line = json.dumps({"_id": "a", "text": "x"})
    with pytest.raises(InputError, match="two texts have the id 'a'"):
        read_corpus(write(tmp_path / "texts.jsonl", line, line))


def test_a_line_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1"):
        read_corpus(write(tmp_path / "texts.jsonl", '{"title": "x"}'))


def test_labels_must_be_as_many_as_texts(tmp_path: Path) -> None:
    file = write(tmp_path / "labels.txt", "a", "", "b")
    assert read_labels(file, 3) == ("a", None, "b")
    with pytest.raises(InputError, match="3 lines, and there are 4 texts"):
        read_labels(file, 4)


def test_copies_and_empty_texts_are_measured_once_or_not_at_all() -> None:
    texts = (*MANY.texts, "text 1", " ", "")
    corpus = Corpus(tuple(map(str, range(63))), texts, ("first", *[None] * 59, "second", "empty", "empty"))
    made = make_texts(corpus, name="texts")
    assert made.different == MANY.texts
    assert made.rows[-3:] == (1, -1, -1)
    assert made.labels is not None and made.labels[:2] == ("first", None)  # that of the first occurrence


@pytest.mark.parametrize(
    "texts",
    [("same",) * 200, ("",) * 200, tuple(f"text {row}" for row in range(49))],
    ids=["duplicates", "empty", "few"],
)
def test_too_few_different_texts_are_refused(texts: tuple[str, ...]) -> None:
    corpus = Corpus(tuple(map(str, range(len(texts)))), texts, (None,) * len(texts))
    with pytest.raises(InputError, match=r"different texts \(.* and at least 50 are needed"):
        make_texts(corpus, name="texts.txt")


def test_queries_and_judgments_belong_together() -> None:
    with pytest.raises(InputError, match="belong together"):
        make_texts(MANY, name="texts", queries=queries("x"))
    with pytest.raises(InputError, match="belong together"):
        make_texts(MANY, name="texts", judgments={"q0": {"d1": 1}})


def test_only_judged_queries_are_kept() -> None:
    made = make_texts(MANY, name="texts", queries=queries("x", "y", "z"), judgments={"q1": {"d1": 1}, "q2": {"d2": 0}})
    assert made.queries is not None and made.queries.ids == ("q1",)


def test_judgments_of_unknown_ids_are_refused() -> None:
    with pytest.raises(InputError, match="such as 'q0' and 'd0'"):
        make_texts(MANY, name="texts", queries=queries("x"), judgments={"1": {"2": 1}})


def test_an_empty_query_is_refused() -> None:
    with pytest.raises(InputError, match="the query 'q0' is empty"):
        make_texts(MANY, name="texts", queries=queries(" "), judgments={"q0": {"d1": 1}})
