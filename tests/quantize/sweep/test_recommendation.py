"""Dropped, beaten and recommended candidates, from figures written by hand."""

from __future__ import annotations

import pytest

from fletcher.quantize.sweep.recommendation import pareto_front, reason_to_drop, recommend
from fletcher.quantize.sweep.results import Candidate
from fletcher.quantize.sweep.ties import rivals

from .candidates import candidate, timing

PARENT = candidate("fp32", 1.0, 1.0, 1.0, overlap=1.0)


def test_a_candidate_that_is_neither_faster_nor_smaller_is_dropped() -> None:
    assert reason_to_drop(candidate("a", 0.999, 2.0, 1.0)) == ""
    assert reason_to_drop(candidate("a", 0.999, 0.5, 0.3)) == ""
    assert "neither faster nor smaller" in reason_to_drop(candidate("a", 0.999, 1.01, 0.99))
    assert reason_to_drop(candidate("a", 0.9, 3.0, 0.1, problem="it broke")) == "it broke"


def test_a_speed_whose_range_reaches_float32s_is_not_faster() -> None:
    assert reason_to_drop(candidate("a", 0.999, 1.2, 1.0, noise=0.1)) == ""
    assert "neither faster nor smaller" in reason_to_drop(candidate("a", 0.999, 1.2, 1.0, noise=0.3))


def test_the_front_has_the_candidates_that_no_other_beats_in_all_metrics() -> None:
    points = [
        PARENT,
        candidate("fast", 0.99, 3.0, 0.3),
        candidate("beaten", 0.98, 2.5, 0.3),
        candidate("small", 0.97, 1.1, 0.1),
        candidate("twin", 0.99, 3.0, 0.3),
    ]
    assert pareto_front(points) == ["fp32", "fast", "small", "twin"]


def test_a_gain_within_the_noise_beats_nothing() -> None:
    points = [
        candidate("accurate", 0.999, 2.0, 0.3, noise=0.1),
        candidate("luckier", 0.99, 2.2, 0.3, noise=0.1),
        candidate("faster", 0.99, 3.0, 0.3, noise=0.1),
    ]
    assert pareto_front(points) == ["accurate", "faster"]


def test_the_fastest_candidate_within_the_bounds_is_recommended() -> None:
    points = [
        candidate("fastest", 0.99, 3.0, 0.3),
        candidate("fast", 0.998, 2.0, 0.5, noise=0.01),
        candidate("slower and more accurate", 0.9999, 1.5, 0.3),
    ]
    advice = recommend(points, 0.995, 0.95)
    assert advice.chosen == "fast" and advice.equals == ()
    assert "2.00 times float32's throughput on this machine (1.98 to 2.02 in 1 rounds)" in advice.sentence
    assert "cosine of 0.9980" in advice.sentence and "Equal" not in advice.sentence
    assert recommend(points, 0.9, 0.95).chosen == "fastest"


def test_of_equally_fast_ones_the_most_accurate_is_recommended_and_the_others_are_named() -> None:
    points = [
        candidate("fastest", 0.9970, 2.2, 0.3, noise=0.1),
        candidate("overlaps", 0.9990, 1.9, 0.5, noise=0.1),
        candidate("three percent", 0.9980, 2.15, 0.5),
        candidate("slower", 0.9999, 1.5, 0.5, noise=0.1),
        candidate("beyond the bounds", 0.9, 2.2, 0.3, noise=0.1),
    ]
    advice = recommend(points, 0.995, 0.95)
    assert advice.chosen == "overlaps" and advice.equals == ("fastest", "three percent")
    assert "Equal in throughput" in advice.sentence and "fastest and three percent" in advice.sentence
    assert "overlaps has the highest mean cosine, 0.99900" in advice.sentence


def test_a_smaller_file_decides_between_equally_fast_and_accurate_ones() -> None:
    points = [candidate("large", 0.999, 2.0, 0.5), candidate("small", 0.999, 2.0, 0.3)]
    assert recommend(points, 0.995, 0.95).chosen == "small"


def test_a_speed_within_the_noise_of_float32_is_not_called_a_gain() -> None:
    advice = recommend([candidate("a", 0.999, 1.05, 0.5, noise=0.1)], 0.995, 0.95)
    assert advice.chosen == "a" and "not measurably faster" in advice.sentence


def test_only_overlapping_speeds_need_more_rounds() -> None:
    wide = {"best": timing(2.0, 0.1), "near": timing(1.9, 0.1), "far": timing(1.0, 0.1)}
    assert rivals(wide) == ["best", "near"]
    assert rivals({"best": timing(2.0, 0.01), "near": timing(1.9, 0.01)}) == []
    assert rivals({"a": timing(2.0, 0.005), "b": timing(1.99, 0.005)}) == []  # certainly within three percent
    assert rivals({"alone": timing(2.0, 0.5)}) == rivals({}) == []


@pytest.mark.parametrize(
    "refused",
    [
        candidate("far", 0.99, 3.0, 0.3),
        candidate("other neighbors", 0.999, 3.0, 0.3, overlap=0.9),
        candidate("depends", 0.999, 3.0, 0.3, batch=0.9999),
    ],
)
def test_float32_is_kept_if_no_candidate_is_within_the_bounds(refused: Candidate) -> None:
    advice = recommend([refused], 0.995, 0.95)
    assert advice.chosen is None
    assert advice.sentence.startswith("Keep float32") and refused.name in advice.sentence


def test_float32_is_kept_if_there_is_no_candidate() -> None:
    assert recommend([], 0.995, 0.95).chosen is None
