"""Neighbors and hubs against scikit-learn and SciPy; near-duplicates in a case worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import skew
from sklearn.neighbors import NearestNeighbors

from fletcher.convert.quality.measures.neighbors import Neighbors, describe_hubness, find_duplicates, find_neighbors


@pytest.fixture(scope="module")
def unit() -> NDArray[np.float32]:
    vectors = np.random.default_rng(2).standard_normal((1300, 8)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_neighbors_are_those_of_scikit_learn(unit: NDArray[np.float32]) -> None:
    found = find_neighbors(unit)
    distances, rows = NearestNeighbors(n_neighbors=11, metric="cosine").fit(unit).kneighbors(unit)
    assert (found.rows == rows[:, 1:]).mean() > 0.999  # float32 exchanges a few that are equally near
    assert found.cosines == pytest.approx(1 - distances[:, 1:], abs=1e-6)


def test_hubness_is_the_skewness_of_occurrences(unit: NDArray[np.float32]) -> None:
    neighbors = find_neighbors(unit)
    occurrences = np.array([(neighbors.rows == row).sum() for row in range(len(unit))])
    found = describe_hubness(neighbors, [f"text {row}" for row in range(len(unit))])
    assert found.skewness == pytest.approx(skew(occurrences))
    assert found.never == pytest.approx((occurrences == 0).mean())
    assert found.largest == occurrences.max()
    assert found.largest_text == f"text {occurrences.argmax()}"


def test_near_duplicates_are_counted_once_a_pair() -> None:
    rows = np.array([[1, 2], [0, 2], [3, 0], [2, 0]])
    cosines = np.array([[0.99, 0.1], [0.99, 0.2], [0.6, 0.1], [0.6, 0.1]], np.float32)
    found = find_duplicates(Neighbors(rows, cosines), ["a", "b", "c", "d"], 0.95, copies=1)
    assert found.near_share == 0.5  # two of four
    assert found.copies_share == 1 / 5
    ((pair),) = found.pairs
    assert (pair.first, pair.second) == ("a", "b")
    assert pair.cosine == pytest.approx(0.99)
