"""Inputs of graphs, compared with values worked out by hand for two texts of three tokens and one token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fletcher.runtime.artifact.manifest import FeedRules, TensorInfo
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.session.feeds import POSITION_TABLE, WORD_TABLE, make_feeds, pack

BATCH = Encodings.from_lists([[7, 1, 9], [4]])


def _feed(name: str, dtype: str, rank: int, rules: FeedRules | None = None, **tables: Any) -> Any:
    info = TensorInfo(name, dtype, ("a", "b", "c")[:rank])
    array = make_feeds((info,), rules or FeedRules(), BATCH, tables)[name]
    assert array.dtype == np.dtype(dtype)
    return array.tolist()


@pytest.mark.parametrize(
    ("name", "dtype", "rank", "expected"),
    [
        ("input_ids", "int32", 1, [7, 1, 9, 4]),
        ("input_ids", "int32", 2, [[7, 1, 9], [4, 0, 0]]),
        ("offsets", "int64", 1, [0, 3, 4]),
        ("cumulative_sequence_length", "int32", 1, [0, 3, 4]),
        ("token_offset", "int32", 2, [[0, 1, 2], [3, 4, 5]]),
        ("positions", "int32", 1, [0, 1, 2, 0]),
        ("position_ids", "int32", 2, [[0, 1, 2], [0, 0, 0]]),
        ("attention_mask", "int32", 2, [[1, 1, 1], [1, 0, 0]]),
        ("steps", "int64", 1, [0, 1, 2]),
        ("around.3", "int32", 2, [[0, 1, 2], [1, 2, 3], [2, 3, 0], [0, 4, 0]]),
        ("around.3", "int32", 3, [[[0, 1, 2], [1, 2, 3], [2, 3, 0]], [[0, 4, 0], [0, 0, 0], [0, 0, 0]]]),
        ("rectangle", "int32", 2, [[0, 1, 2], [3, 3, 3]]),
        ("pooling.cls", "int32", 1, [0, 3]),
        ("pooling.lasttoken", "int32", 1, [2, 3]),
        ("pooling.cls", "float32", 2, [[1, 0, 0], [1, 0, 0]]),
        ("pooling.lasttoken", "float32", 2, [[0, 0, 1], [1, 0, 0]]),
        ("pooling.mean", "float32", 2, [pytest.approx([1 / 3] * 3), [1, 0, 0]]),
        ("pooling.mean_sqrt_len_tokens", "float32", 2, [pytest.approx([3**-0.5] * 3), [1, 0, 0]]),
        ("pooling.weightedmean", "float32", 2, [pytest.approx([1 / 6, 2 / 6, 3 / 6]), [1, 0, 0]]),
    ],
)
def test_each_input(name: str, dtype: str, rank: int, expected: Any) -> None:
    assert _feed(name, dtype, rank) == expected


def test_token_offset_has_the_positions_of_tokens_first() -> None:
    """Example of the operator's documentation: texts of 1, 2 and 4 tokens."""
    batch = Encodings.from_lists([[1], [2, 3], [4, 5, 6, 7]])
    info = TensorInfo("token_offset", "int32", ("texts", "longest"))
    places = make_feeds((info,), FeedRules(), batch)["token_offset"]
    assert places.shape == (3, 4)
    assert places.ravel().tolist() == [0, 4, 5, 8, 9, 10, 11, 1, 2, 3, 6, 7]


def test_roberta_does_not_count_padding_tokens() -> None:
    """As in `create_position_ids_from_input_ids`, tokens with the id 1 have position 1, the others 2, 3, …"""
    rules = FeedRules(padding_id=1)
    assert _feed("position_ids", "int32", 1, rules) == [2, 1, 3, 2]
    assert _feed("positions", "int32", 1, rules) == [0, 1, 2, 0]


def test_a_rounded_width_is_padding_and_leaves_tables_alone() -> None:
    rules = FeedRules(multiple=8)
    assert _feed("attention_mask", "int32", 2, rules) == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
    assert _feed("steps", "int64", 1, rules) == [0, 1, 2, 2, 2, 2, 2, 2]


def test_rows_of_tables() -> None:
    words, places = np.arange(20.0).reshape(10, 2), -np.arange(8.0).reshape(4, 2)
    rules = FeedRules(shape=(2, 4), tables={WORD_TABLE: "w", POSITION_TABLE: "p"})
    tables = {WORD_TABLE: words, POSITION_TABLE: places}
    rows = _feed(WORD_TABLE, "float16", 3, rules, **tables)
    assert rows == [[[14, 15], [2, 3], [18, 19], [0, 1]], [[8, 9], [0, 1], [0, 1], [0, 1]]]
    assert _feed(POSITION_TABLE, "float32", 3, rules, **tables)[0] == [[0, -1], [-2, -3], [-4, -5], [0, -1]]


@pytest.mark.parametrize("shape", [(1, 4), (2, 2)])
def test_a_batch_that_does_not_fit_a_fixed_shape_is_rejected(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{shape[0]} texts of {shape[1]} tokens"):
        _feed("attention_mask", "int32", 2, FeedRules(shape=shape))


def test_a_fixed_shape_may_have_rows_without_text() -> None:
    assert _feed("pooling.mean", "float32", 2, FeedRules(shape=(3, 3)))[2] == [0, 0, 0]


def test_a_text_has_the_number_of_its_route_and_an_empty_row_has_none() -> None:
    routed = replace(BATCH, token_types=np.array([2, 2, 2, 1], np.int32))
    info = TensorInfo("text_tasks", "int32", ("texts",))
    for batch, shape, expected in ((BATCH, None, [0, 0]), (routed, None, [2, 1]), (routed, (4, 8), [2, 1, 0, 0])):
        found = make_feeds((info,), FeedRules(shape=shape), batch)["text_tasks"]
        assert found.tolist() == expected and found.dtype == np.int32
    assert routed.tensors(["text_tasks"])["text_tasks"].tolist() == [2, 1]


def test_first_tokens_have_rows_behind_the_others() -> None:
    batch = Encodings.from_lists([[5, 7], [5, 5, 8]])
    info = TensorInfo("first_rows", "int32", ("tokens",))
    for shape in (None, (4, 8)):
        assert make_feeds((info,), FeedRules(shape=shape), batch)["first_rows"].tolist() == [5, 1, 6, 3, 4]


def test_an_unseen_tail_is_masked_but_never_the_first_token_of_a_text() -> None:
    batch = Encodings.from_lists([[5, 7, 5, 5], [5, 5], [7, 8]])
    info = TensorInfo("attention_mask", "int32", ("texts", "longest"))
    mask = make_feeds((info,), FeedRules(unseen_tail=5), batch)["attention_mask"]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]


def test_packing_selects_tokens_from_a_rectangle_that_may_be_larger() -> None:
    rectangle = np.arange(2 * 5 * 2).reshape(2, 5, 2)
    assert pack(rectangle, BATCH).tolist() == [[0, 1], [2, 3], [4, 5], [10, 11]]
    packed = np.arange(8).reshape(4, 2)
    assert pack(packed, BATCH) is packed
