"""Ranges of a median against the binomial distribution and against simulated rounds."""

from __future__ import annotations

import numpy as np
import pytest

from fletcher.quantize.measure.spread import CONFIDENCE, Spread


def spread(low: float, high: float) -> Spread:
    return Spread(median=(low + high) / 2, low=low, high=high, rounds=())


#: Ranks, from 1, of the ends of the interval of the sign test: the largest with a probability of at least 0.93. Computed by
#: hand from the binomial coefficients, and equal to the tables of the sign test at 95 % where that is the next level.
RANKS = {1: (1, 1), 3: (1, 3), 5: (1, 5), 7: (1, 7), 9: (2, 8), 12: (3, 10), 15: (4, 12), 20: (6, 15), 30: (10, 21)}


@pytest.mark.parametrize("count", sorted(RANKS))
def test_the_range_is_that_of_the_sign_test(count: int) -> None:
    values = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    result = Spread.of(values.tolist())
    assert (result.low, result.high) == RANKS[count]
    assert result.median == (count + 1) / 2
    assert result.rounds == tuple(values)


def test_the_range_holds_the_median_with_the_stated_probability() -> None:
    rng = np.random.default_rng(0)
    for count in (5, 12, 40):
        hits = [
            result.low <= 1 <= result.high
            for result in (Spread.of(rng.lognormal(0, 1, count).tolist()) for _ in range(2000))
        ]
        assert np.mean(hits) > CONFIDENCE - 0.02


def test_more_rounds_narrow_the_range() -> None:
    rounds = np.random.default_rng(0).normal(2.0, 0.3, 400)
    widths = [result.high - result.low for result in (Spread.of(rounds[:count].tolist()) for count in (5, 40, 400))]
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.1


def test_thousands_of_rounds_do_not_overflow() -> None:
    result = Spread.of([1.0, 2.0] * 3000)
    assert (result.low, result.high) == (1.0, 2.0)


def test_ranges_that_touch_overlap() -> None:
    assert spread(1.0, 2.0).overlaps(spread(2.0, 3.0)) and spread(2.0, 3.0).overlaps(spread(1.0, 2.0))
    assert spread(1.0, 4.0).overlaps(spread(2.0, 3.0))
    assert not spread(1.0, 2.0).overlaps(spread(2.1, 3.0))
