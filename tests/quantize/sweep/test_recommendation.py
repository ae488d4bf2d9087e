"""Which points are kept, beaten and recommended, from figures written by hand."""

from __future__ import annotations

import pytest

from fletcher.quantize.measure.measurement import Quality, Speed
from fletcher.quantize.sweep.recommendation import pareto_front, recommend, worth_keeping
from fletcher.quantize.sweep.results import Point


def point(
    name: str, cosine: float, speed: float, size: float, *, overlap: float = 0.97, batch: float = 1.0, problem: str = ""
) -> Point:
    """A point whose worst cosine is its mean, and whose texts are as fast short as long."""
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
    return Point(name=name, quality=quality, speed=timing, size=size, file_bytes=int(1000 * size), problem=problem)


PARENT = point("fp32", 1.0, 1.0, 1.0, overlap=1.0)


def test_what_is_neither_faster_nor_smaller_is_dropped() -> None:
    assert worth_keeping(point("a", 0.999, 2.0, 1.0)) == ""
    assert worth_keeping(point("a", 0.999, 0.5, 0.3)) == ""
    assert "neither faster nor smaller" in worth_keeping(point("a", 0.999, 1.01, 0.99))
    assert worth_keeping(point("a", 0.9, 3.0, 0.1, problem="it broke")) == "it broke"


def test_the_front_is_what_no_other_beats_in_everything() -> None:
    points = [
        PARENT,
        point("fast", 0.99, 3.0, 0.3),
        point("beaten", 0.98, 2.5, 0.3),
        point("small", 0.97, 1.1, 0.1),
        point("twin", 0.99, 3.0, 0.3),
    ]
    assert pareto_front(points) == ["fp32", "fast", "small", "twin"]


def test_the_fastest_within_the_bounds_is_taken() -> None:
    points = [
        point("fastest", 0.99, 3.0, 0.3),
        point("fast", 0.999, 2.0, 0.5),
        point("as fast and smaller", 0.998, 1.96, 0.3),
        point("near", 0.9999, 1.5, 0.5),
    ]
    name, sentence = recommend(PARENT, points, 0.995, 0.95)
    assert name == "as fast and smaller"
    assert "1.96 times float32's throughput" in sentence and "cosine of 0.9980" in sentence
    assert recommend(PARENT, points, 0.9, 0.95)[0] == "fastest"


@pytest.mark.parametrize(
    "refused",
    [
        point("far", 0.99, 3.0, 0.3),
        point("other neighbors", 0.999, 3.0, 0.3, overlap=0.9),
        point("depends", 0.999, 3.0, 0.3, batch=0.9999),
    ],
)
def test_float32_is_kept_where_nothing_keeps_the_bounds(refused: Point) -> None:
    name, sentence = recommend(PARENT, [refused], 0.995, 0.95)
    assert name is None
    assert sentence.startswith("Keep float32") and refused.name in sentence


def test_float32_is_kept_where_there_is_nothing_else() -> None:
    assert recommend(PARENT, [], 0.995, 0.95)[0] is None
