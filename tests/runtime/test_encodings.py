"""`Encodings`: small cases that were worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fletcher.runtime.encodings import Encodings

ROWS = [[7], [1, 2, 3], [], [4, 5]]


def rows(encodings: Encodings) -> list[list[int]]:
    return [part.tolist() for part in np.split(encodings.ids, encodings.offsets[1:-1])]


def test_rows_become_flat_ids_and_offsets() -> None:
    encodings = Encodings.from_lists(ROWS)
    assert encodings.ids.tolist() == [7, 1, 2, 3, 4, 5] and encodings.ids.dtype == np.int32
    assert encodings.offsets.tolist() == [0, 1, 4, 4, 6] and encodings.offsets.dtype == np.int64
    assert encodings.lengths.tolist() == [1, 3, 0, 2]
    assert len(encodings) == 4 and encodings.num_tokens == 6
    assert encodings.dropped.tolist() == [0] * 4 and encodings.dropped.dtype == np.int32


def test_select_takes_rows_in_the_order_asked_for() -> None:
    encodings = dataclasses.replace(Encodings.from_lists(ROWS), dropped=np.array([0, 9, 0, 5], np.int32))
    chosen = encodings.select(np.array([3, 2, 1, 3]))
    assert rows(chosen) == [[4, 5], [], [1, 2, 3], [4, 5]]
    assert chosen.dropped.tolist() == [5, 0, 9, 5]
    assert chosen.ids.dtype == np.int32 and chosen.offsets.dtype == np.int64
    assert len(encodings.select(np.zeros(0, np.int64))) == 0


def test_parts_are_joined_in_order() -> None:
    parts = [Encodings.from_lists(ROWS[:2]), Encodings.from_lists([]), Encodings.from_lists(ROWS[2:])]
    joined = Encodings.concatenate(parts)
    assert rows(joined) == ROWS and joined.ids.dtype == np.int32
    assert len(Encodings.concatenate([])) == 0


def test_ids_that_no_int32_holds_are_refused() -> None:
    with pytest.raises(OverflowError):
        Encodings.from_lists([[2**31]])
