"""Examples: kinds, copies, and data that cannot be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fletcher.convert.tune.data.examples import Example, make_examples, read_positive_pairs, read_training_texts
from fletcher.convert.tune.data.rows import Row
from fletcher.runtime.errors import InputError


def rows(count: int = 60, **more: Any) -> list[Row]:
    """Return different pairs; a value of `more` that is callable gets the number of the row."""
    return [
        (
            f"row {number}",
            {"anchor": f"q{number}", "document": f"d{number}"}
            | {name: value(number) if callable(value) else value for name, value in more.items()},
        )
        for number in range(count)
    ]


def test_pairs_triplets_and_scored_pairs() -> None:
    assert make_examples("x", rows()).kind == "pairs"
    triplets = make_examples("x", rows(negatives=lambda n: [f"n{n}", f"m{n}"], negative_2=lambda n: None))
    assert (triplets.kind, triplets.items[3]) == ("triplets", Example("q3", "d3", ("n3", "m3")))
    assert make_examples("x", rows(negative_1=lambda n: "a", negative_2=lambda n: "b")).items[0].negatives == ("a", "b")
    scored = make_examples("x", rows(label=lambda n: str(n % 3), document_id=lambda n: n // 2))
    assert (scored.kind, scored.items[5]) == ("scored", Example("q5", "d5", (), 2.0, "2"))


def test_columns_are_those_of_all_rows() -> None:
    later = [(place, dict(row) | {"negative": "n", "group": "g"}) for place, row in rows()[30:]]
    found = make_examples("x", [*rows()[:30], *later])
    assert found.kind == "triplets"
    assert [found.items[row] for row in (0, 30)] == [Example("q0", "d0"), Example("q30", "d30", ("n",), None, "g")]
    with pytest.raises(InputError, match="row 0: score is None"):
        make_examples("x", [*rows(30), *((place, dict(row) | {"score": 1}) for place, row in rows()[30:])])


def test_positive_pairs_are_of_any_number_and_keep_their_groups(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("anchor,document,score,group,note\nq,d,1,g,a\nq,d,1,other,b\nq,e,1,,\n")
    assert read_positive_pairs(path) == [Example("q", "d", group="g"), Example("q", "e")]
    path.write_text("anchor,document\n")
    with pytest.raises(InputError, match="has no pair"):
        read_positive_pairs(path)


def test_copies_count_once() -> None:
    examples = make_examples("x", [*rows(), *rows(7)])
    assert (len(examples), examples.copies) == (60, 7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "has no row"),
        (rows(49) * 2, r"49 different examples \(49 copies\)"),
        (rows(1) * 100, r"1 different examples \(99 copies\)"),
        (rows(score=1), "the score 1, from which no order can be learned"),
        (rows(score=lambda n: "high"), "row 0: score is 'high'"),
        (rows(score=lambda n: float("nan")), "must be a finite number"),
        (rows(anchor=lambda n: " " if n == 4 else "q"), "row 4: anchor is empty"),
        (rows(document=lambda n: None), "row 0: document is empty"),
        (rows(document=lambda n: n), "document is 0, and must be a text"),
        (rows(document=lambda n: f"q{n}"), "both texts are equal"),
        (rows(negatives=lambda n: [""]), "negatives has ''"),
        (rows(anchor="the same"), "has one query"),
        ([("row", {"a": "b"})], "has the columns a, and none for a query"),
    ],
)
def test_data_that_cannot_be_trained_on(given: list[Row], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_examples("x", given)


def test_texts_are_different_and_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"text": "t{number % 60}"}}\n' for number in range(70)))
    texts, copies = read_training_texts(path)
    assert (len(texts), copies) == (60, 10)
    path.write_text('{"text": ""}\n' * 60)
    with pytest.raises(InputError, match="line 1: text is empty"):
        read_training_texts(path)
    path.write_text('{"text": "a"}\n' * 60)
    with pytest.raises(InputError, match=r"1 different texts \(59 copies\)"):
        read_training_texts(path)
