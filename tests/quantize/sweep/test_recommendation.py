"""Dropped, beaten and recommended candidates, from figures written by hand."""

from __future__ import annotations

import pytest

from fletcher.quantize.measure.quality import Quality
from fletcher.quantize.measure.speed import Speed
from fletcher.quantize.sweep.recommendation import pareto_front, reason_to_drop, recommend
from fletcher.quantize.sweep.results import Candidate


def candidate(
    name: str, cosine: float, speed: float, size: float, *, overlap: float = 0.97, batch: float = 1.0, problem: str = ""
) -> Candidate:
    """Return a candidate whose smallest cosine is its mean and whose short and long texts have the same speed."""
    quality = Quality(
        cosine_mean=cosine,
        cosine_p1=cosine,
        cosine_min=cosine,
        overlap=overlap,
        spearman=1.0,
        pairs=None,
        batch_max_abs=0.0,
        batch_cosine=batch,
        cosines=(cosine,),
    )
    timing = Speed(
        short_texts_per_s=1.0,
        long_texts_per_s=1.0,
        latency_ms=1.0,
        short_ratio=speed,
        long_ratio=speed,
        latency_ratio=speed,
        spread=0.0,
        rounds=1,
    )
    return Candidate(name=name, quality=quality, speed=timing, size=size, file_bytes=int(1000 * size), problem=problem)


PARENT = candidate("fp32", 1.0, 1.0, 1.0, overlap=1.0)


def test_a_candidate_that_is_neither_faster_nor_smaller_is_dropped() -> None:
    assert reason_to_drop(candidate("a", 0.999, 2.0, 1.0)) == ""
    assert reason_to_drop(candidate("a", 0.999, 0.5, 0.3)) == ""
    assert "neither faster nor smaller" in reason_to_drop(candidate("a", 0.999, 1.01, 0.99))
    assert reason_to_drop(candidate("a", 0.9, 3.0, 0.1, problem="it broke")) == "it broke"


def test_the_front_has_the_candidates_that_no_other_beats_in_all_metrics() -> None:
    points = [
        PARENT,
        candidate("fast", 0.99, 3.0, 0.3),
        candidate("beaten", 0.98, 2.5, 0.3),
        candidate("small", 0.97, 1.1, 0.1),
        candidate("twin", 0.99, 3.0, 0.3),
    ]
    assert pareto_front(points) == ["fp32", "fast", "small", "twin"]


def test_the_fastest_candidate_within_the_bounds_is_recommended() -> None:
    points = [
        candidate("fastest", 0.99, 3.0, 0.3),
        candidate("fast", 0.999, 2.0, 0.5),
        candidate("as fast and smaller", 0.998, 1.96, 0.3),
        candidate("near", 0.9999, 1.5, 0.5),
    ]
    name, sentence = recommend(points, 0.995, 0.95)
    assert name == "as fast and smaller"
    assert "1.96 times float32's throughput" in sentence and "cosine of 0.9980" in sentence
    assert recommend(points, 0.9, 0.95)[0] == "fastest"


@pytest.mark.parametrize(
    "refused",
    [
        candidate("far", 0.99, 3.0, 0.3),
        candidate("other neighbors", 0.999, 3.0, 0.3, overlap=0.9),
        candidate("depends", 0.999, 3.0, 0.3, batch=0.9999),
    ],
)
def test_float32_is_kept_if_no_candidate_is_within_the_bounds(refused: Candidate) -> None:
    name, sentence = recommend([refused], 0.995, 0.95)
    assert name is None
    assert sentence.startswith("Keep float32") and refused.name in sentence


def test_float32_is_kept_if_there_is_no_candidate() -> None:
    assert recommend([], 0.995, 0.95)[0] is None
