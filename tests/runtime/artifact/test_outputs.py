"""Values of several outputs of one run as one column: by hand, and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime.artifact.outputs import (
    BY_TOKEN,
    ValueRows,
    join_names,
    join_values,
    names_of,
    split_values,
    value_rows,
)
from fletcher.runtime.encodings import Encodings

#: Two texts of two tokens and of one token.
BATCH = Encodings.from_lists([[1, 2], [3]])
WIDTHS = {"vectors": 3, "token_weights": 1, "token_vectors": 2}


def test_rows_of_an_output() -> None:
    assert value_rows("vectors", WIDTHS) is None
    assert value_rows("token_weights", WIDTHS) == BY_TOKEN == ValueRows(0, 1)
    assert value_rows("vectors+token_weights", WIDTHS) == ValueRows(3, 1)
    assert value_rows("vectors+token_weights+token_vectors", WIDTHS) == ValueRows(3, 3)
    assert names_of(join_names(["vectors", "token_weights"])) == ["vectors", "token_weights"]
    assert names_of("vectors") == ["vectors"]


def test_rows_have_their_texts() -> None:
    """The column of `vectors+token_weights` has places 0 to 4 for the first text and 5 to 8 for the second one."""
    assert ValueRows(3, 1).texts(BATCH, np.array([1, 4, 5, 8])).tolist() == [0, 1]
    assert ValueRows(3, 1).texts(BATCH, np.array([6])).tolist() == [1]
    assert BY_TOKEN.texts(BATCH, np.array([0, 1])).tolist() == [0]
    assert BY_TOKEN.texts(Encodings.from_lists([[1], [], [2]]), np.array([1])).tolist() == [2]


def test_a_column_has_each_texts_elements_in_a_row() -> None:
    vectors = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    weights = np.array([[7], [8], [9]], np.float32)
    names = ["vectors", "token_weights"]
    column = join_values(names, [vectors, weights], BATCH)
    assert column[:, 0].tolist() == [1, 2, 3, 7, 8, 4, 5, 6, 9]
    rows = ValueRows(3, 1)
    assert rows.count(BATCH) == 9
    assert rows.places(BATCH, np.array([1])).tolist() == [5, 6, 7, 8]
    assert rows.places(BATCH, np.array([1, 0])).tolist() == [5, 6, 7, 8, 0, 1, 2, 3, 4]
    first, second = split_values(names, [3, 1], column, BATCH)
    np.testing.assert_array_equal(first, vectors)
    np.testing.assert_array_equal(second, weights)


@pytest.mark.parametrize("names", [["vectors", "token_weights", "token_vectors"], ["token_weights", "token_vectors"]])
def test_parts_of_a_batch_are_put_together_in_any_order(names: list[str]) -> None:
    rng = np.random.default_rng(7)
    batch = Encodings.from_lists([[0] * int(length) for length in rng.integers(1, 9, 20)])

    def values(part: Encodings, kept: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        tokens = batch.token_index(kept)
        return [(everything[name][tokens] if name.startswith("token") else everything[name][kept]) for name in names]

    everything = {
        name: rng.normal(size=(batch.num_tokens if name.startswith("token") else 20, width)).astype(np.float32)
        for name, width in WIDTHS.items()
    }
    rows = value_rows(join_names(names), WIDTHS)
    assert rows is not None
    column = np.zeros((rows.count(batch), 1), np.float32)
    for kept in np.array_split(rng.permutation(20), 4):
        part = batch.select(kept)
        column[rows.places(batch, kept)] = join_values(names, values(part, kept), part)
    found = split_values(names, [WIDTHS[name] for name in names], column, batch)
    for name, part_values in zip(names, found, strict=True):
        np.testing.assert_array_equal(part_values, everything[name])


def test_no_text_has_no_value() -> None:
    empty = Encodings.from_lists([])
    column = join_values(["vectors", "token_weights"], [np.zeros((0, 3)), np.zeros((0, 1))], empty)
    assert column.shape == (0, 1)
    assert [part.shape for part in split_values(["vectors", "token_weights"], [3, 1], column, empty)] == [
        (0, 3),
        (0, 1),
    ]
