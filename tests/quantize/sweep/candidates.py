"""Candidates of a sweep with figures written by hand."""

from __future__ import annotations

from fletcher.quantize.measure.quality import Quality
from fletcher.quantize.measure.speed import Speed
from fletcher.quantize.measure.spread import Spread
from fletcher.quantize.sweep.results import Candidate


def spread(median: float, noise: float) -> Spread:
    return Spread(median=median, low=median * (1 - noise), high=median * (1 + noise), rounds=(median,))


def timing(speed: float, noise: float = 0.0) -> Speed:
    """Return a speed that is the same for short and long texts; all its ranges are as wide."""
    ratio = spread(speed, noise)
    return Speed(
        short_texts_per_s=ratio,
        long_texts_per_s=ratio,
        latency_ms=ratio,
        short_ratio=ratio,
        long_ratio=ratio,
        throughput_ratio=ratio,
        latency_ratio=ratio,
        short_tokens=16,
        long_tokens=128,
        latency_tokens=12,
    )


def candidate(
    name: str,
    cosine: float,
    speed: float,
    size: float,
    *,
    noise: float = 0.0,
    overlap: float = 0.97,
    batch: float = 1.0,
    problem: str = "",
) -> Candidate:
    """Return a candidate whose smallest cosine is its mean."""
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
    return Candidate(
        name=name,
        quality=quality,
        speed=timing(speed, noise),
        size=size,
        file_bytes=int(1000 * size),
        problem=problem,
    )
