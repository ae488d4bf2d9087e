"""Bootstrap intervals: scipy as the reference, and verdicts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from fletcher.convert.tune.outcome.bootstrap import Sample, compare_samples

GENERATOR = np.random.default_rng(5)
BEFORE = GENERATOR.uniform(size=300)
AFTER = np.clip(BEFORE + GENERATOR.normal(0.02, 0.1, 300), 0, 1)


def test_intervals_of_means_are_those_of_scipy() -> None:
    gain = compare_samples("x", "float32", Sample(BEFORE), Sample(AFTER))
    for values, interval in ((BEFORE, gain.before), (AFTER, gain.after), (AFTER - BEFORE, gain.gain)):
        found = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=3000, rng=1)
        spread = found.confidence_interval.high - found.confidence_interval.low
        assert interval.value == pytest.approx(values.mean())
        assert interval.low == pytest.approx(found.confidence_interval.low, abs=0.1 * spread)
        assert interval.high == pytest.approx(found.confidence_interval.high, abs=0.1 * spread)


def test_rank_correlations_are_those_of_scipy() -> None:
    scores = np.round(BEFORE * 5)
    gain = compare_samples("x", "float32", Sample(AFTER, scores), Sample(BEFORE, scores), reference=0.9)
    assert gain.before.value == pytest.approx(scipy.stats.spearmanr(AFTER, scores).statistic)
    found = scipy.stats.bootstrap(
        (AFTER, scores),
        lambda one, other: scipy.stats.spearmanr(one, other).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=300,
        rng=1,
    )
    assert gain.before.low == pytest.approx(found.confidence_interval.low, abs=0.01)
    assert (gain.reference, gain.verdict) == (0.9, "better")


@pytest.mark.parametrize(
    ("shift", "noise", "verdict"),
    [(0.05, 0.1, "better"), (-0.05, 0.1, "worse"), (0.0, 0.1, "no difference beyond noise")],
)
def test_noise_is_not_sold_as_gain(shift: float, noise: float, verdict: str) -> None:
    generator = np.random.default_rng(2)
    after = BEFORE + shift + generator.normal(0, noise, 300)
    after -= (after - BEFORE).mean() - shift
    assert compare_samples("x", "float32", Sample(BEFORE), Sample(after)).verdict == verdict


def test_most_trainings_on_noise_gain_nothing() -> None:
    """The interval of 95 % of a difference that is only noise has zero inside in about 95 of 100 cases."""
    generator = np.random.default_rng(0)
    verdicts = [
        compare_samples("x", "g", Sample(base), Sample(base + generator.normal(0, 0.1, 100)), seed=seed).verdict
        for seed, base in enumerate(generator.uniform(size=(40, 100)))
    ]
    assert verdicts.count("no difference beyond noise") >= 33  # fewer have a probability of 0.2 % at 95 %
