"""Smoothing factors, separate columns and static steps, computed from activations."""

from __future__ import annotations

import numpy as np
import pytest

from fletcher.quantize.graph.activations import (
    GELU_FLOOR,
    Activations,
    even_steps,
    loud_columns,
    smoothing_factors,
    uneven_steps,
)

RANDOM = np.random.default_rng(3)
WEIGHT = RANDOM.normal(size=(6, 4)).astype(np.float32)
ROWS = (RANDOM.normal(size=(50, 6)) * [1, 1, 40, 1, 0.1, 1]).astype(np.float32)
LARGEST = np.abs(ROWS).max(axis=0)
NONE = np.empty(0, np.int64)


def test_smoothing_is_the_papers_equation_up_to_a_common_factor() -> None:
    factors = smoothing_factors(LARGEST, [WEIGHT], 0.5)
    paper = LARGEST**0.5 / np.abs(WEIGHT).max(axis=1) ** 0.5  # s_j = max|X_j|^a / max|W_j|^(1-a)
    assert np.allclose(factors / factors[0], paper / paper[0], rtol=1e-5)
    assert np.exp(np.log(factors).mean()) == pytest.approx(1, rel=1e-5)


def test_weights_that_read_one_tensor_share_factors_of_the_larger_one() -> None:
    assert np.allclose(
        smoothing_factors(LARGEST, [WEIGHT, 3 * WEIGHT], 0.7), smoothing_factors(LARGEST, [3 * WEIGHT], 0.7)
    )


@pytest.mark.parametrize("loud", [NONE, np.array([2]), np.array([0, 2])])
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_smoothed_absorbed_and_separate_columns_give_the_same_product(loud: np.ndarray, alpha: float | None) -> None:
    factors = None if alpha is None else smoothing_factors(LARGEST, [WEIGHT], alpha)
    seen = Activations(factors, loud, 0.0, 0.0, ROWS.mean(axis=0), ROWS.mean(axis=0))
    multipliers = seen.multipliers
    quiet = ROWS if multipliers is None else ROWS * multipliers
    assert np.allclose(quiet @ seen.absorb(WEIGHT) + ROWS[:, loud] @ WEIGHT[loud], ROWS @ WEIGHT, atol=1e-4)
    assert (multipliers is None) == (alpha is None and not len(loud))
    assert not quiet[:, loud].any()


def test_columns_with_the_largest_activations_are_found() -> None:
    assert loud_columns(LARGEST, 1).tolist() == [2]
    assert loud_columns(LARGEST, 0).tolist() == []
    assert loud_columns(LARGEST, 99).tolist() == [0, 1, 2, 3, 4, 5]


def test_steps_cover_both_ends_and_represent_zero() -> None:
    for steps, low, high in ((uneven_steps(-0.17, 8.0), -0.17, 8.0), (even_steps(-2.0, 8.0), -8.0, 8.0)):
        values = np.linspace(low, high, 1001).astype(np.float32)
        assert np.abs(steps.round(values) - values).max() <= 0.501 * steps.scale + 0.5 * steps.scale * (steps.zero != 0)
        assert steps.round(np.zeros(1, np.float32)) == 0
        assert steps.round(np.array([100.0], np.float32)) == pytest.approx(high, abs=steps.scale)


def test_gelus_floor_is_below_its_minimum() -> None:
    from math import erf, sqrt

    assert min(x / 1000 * 0.5 * (1 + erf(x / 1000 / sqrt(2))) for x in range(-5000, 0)) > -GELU_FLOOR
