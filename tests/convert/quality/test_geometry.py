"""Geometry of vectors against scikit-learn, SciPy, and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.stats import entropy
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from fletcher.convert.quality.measures.geometry import (
    alignment,
    anisotropy,
    describe_geometry,
    distribution,
    effective_rank,
    random_cosines,
    spectrum,
    uniformity,
)


@pytest.fixture(scope="module")
def unit() -> NDArray[np.float32]:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((300, 12)) * np.linspace(1, 0.1, 12) + 0.2
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_anisotropy_is_the_mean_cosine_of_all_pairs(unit: NDArray[np.float32]) -> None:
    pairs = cosine_similarity(unit.astype(np.float64))[np.triu_indices(len(unit), 1)]
    assert anisotropy(unit) == pytest.approx(pairs.mean(), abs=1e-7)


def test_effective_rank_is_that_of_the_singular_values_of_scikit_learn(unit: NDArray[np.float32]) -> None:
    singular = PCA(svd_solver="full").fit(unit.astype(np.float64)).singular_values_
    assert effective_rank(spectrum(unit)) == pytest.approx(np.exp(entropy(singular)), rel=1e-6)


def test_effective_rank_of_equal_variances_is_their_number() -> None:
    assert effective_rank(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert effective_rank(np.zeros(4)) == 0.0


def test_spectrum_is_that_of_scikit_learn(unit: NDArray[np.float32]) -> None:
    expected = PCA(svd_solver="full").fit(unit.astype(np.float64)).explained_variance_
    assert spectrum(unit) == pytest.approx(expected, abs=1e-9)


def test_uniformity_is_wang_and_isolas_formula(unit: NDArray[np.float32]) -> None:
    expected = np.log(np.mean(np.exp(-2 * pdist(unit.astype(np.float64), "sqeuclidean"))))
    assert uniformity(unit) == pytest.approx(expected, abs=1e-6)


def test_uniformity_of_opposite_vectors() -> None:
    # |x - y|² is 4, so the logarithm of exp(-8) is -8.
    assert uniformity(np.array([[1, 0], [-1, 0]], np.float32)) == pytest.approx(-8.0)


def test_alignment_is_the_mean_squared_distance() -> None:
    first = np.array([[1, 0], [0, 1]], np.float32)
    second = np.array([[1, 0], [1, 0]], np.float32)
    assert alignment(first, second) == pytest.approx((0 + 2) / 2)


def test_every_pair_counts_once_if_there_are_few(unit: NDArray[np.float32]) -> None:
    few = unit[:20]
    expected = cosine_similarity(few)[np.triu_indices(20, 1)]
    assert np.sort(random_cosines(few)) == pytest.approx(np.sort(expected), abs=1e-6)


def test_random_pairs_are_different_texts_and_have_the_mean_of_all(unit: NDArray[np.float32]) -> None:
    cosines = random_cosines(unit, count=20_000)
    assert len(cosines) == 20_000
    assert cosines.max() < 1 - 1e-6  # no text is paired with itself
    assert cosines.mean() == pytest.approx(anisotropy(unit), abs=0.02)


def test_distribution_has_numpys_percentiles() -> None:
    values = np.linspace(-0.5, 1, 301)
    found = distribution(values)
    assert (found.p25, found.median, found.p75) == pytest.approx(tuple(np.percentile(values, (25, 50, 75))))
    assert (found.mean, found.deviation) == pytest.approx((values.mean(), values.std()))
    assert sum(found.histogram) == found.count == 301
    assert not any(found.histogram[:25])  # nothing is below -0.5


def test_shares_of_variance(unit: NDArray[np.float32]) -> None:
    shares = PCA(svd_solver="full").fit(unit.astype(np.float64)).explained_variance_ratio_
    found = describe_geometry(unit, np.ones((300, 10), np.float32))
    assert found.first_component == pytest.approx(shares[0], rel=1e-6)
    assert found.dimensions_of_variance == int((np.cumsum(shares) < 0.9).sum()) + 1
