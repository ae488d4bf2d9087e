"""Planning of batches: every text is in one batch, and batches are within the budgets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fletcher.runtime.workers.planning import PADDED_BUDGETS, chunk_places, plan_batches


def plan(lengths: list[int], budget: int) -> list[list[int]]:
    return [rows.tolist() for rows in plan_batches(np.array(lengths, np.int64), budget)]


def test_the_longest_go_first_and_equals_keep_their_order() -> None:
    assert plan([3, 5, 3, 8, 5], 10) == [[3], [1, 4], [0, 2]]


def test_a_text_beyond_the_budget_is_alone() -> None:
    assert plan([2, 900, 2], 512) == [[1], [0, 2]]


def test_short_texts_are_not_padded_to_a_long_one() -> None:
    # 500 + 12 tokens fit in the budget of 512, but 13 rows padded to 500 tokens have 6,500 cells; 1,024 are allowed.
    assert plan([500, *[1] * 12], 512) == [[0, 1], [*range(2, 13)]]


def test_several_devices_end_with_small_batches() -> None:
    batches = plan_batches(np.full(100, 10, np.int64), 200, finishing=2)
    assert [10 * len(rows) for rows in batches] == [200, 200, 150, 110, 80, 60, 50, 50, 50, 50]
    assert sorted(np.concatenate(batches)) == list(range(100))


@given(st.integers(0, 500), st.integers(1, 64))
def test_chunks_cover_everything_and_none_is_very_small(count: int, most: int) -> None:
    places = chunk_places(count, most)
    assert [place.start for place in places] == [0, *(place.stop for place in places[:-1])][: len(places)]
    assert (places[-1].stop if places else 0) == count
    assert all(place.stop - place.start <= most for place in places[:-1])
    assert len(places) < 2 or most // 2 <= places[-1].stop - places[-1].start < most + most // 2 + 1


def test_without_texts_there_are_no_batches() -> None:
    assert plan([], 512) == []


@given(st.lists(st.integers(0, 40_000), max_size=200), st.integers(1, 700), st.integers(1, 4))
def test_every_text_is_in_one_batch_within_the_budgets(lengths: list[int], budget: int, finishing: int) -> None:
    batches = [rows.tolist() for rows in plan_batches(np.array(lengths, np.int64), budget, finishing=finishing)]
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        sizes = [lengths[row] for row in rows]
        assert len(rows) == 1 or sum(sizes) <= budget
        assert len(rows) == 1 or len(rows) * max(sizes) <= PADDED_BUDGETS * budget
        assert sizes == sorted(sizes, reverse=True)
