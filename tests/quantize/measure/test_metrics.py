"""Metrics of a comparison of vectors, compared with cases worked out by hand, scipy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.quantize.measure.metrics import MAX_PAIRWISE, Comparison, compare, similarities
from fletcher.runtime.errors import InputError

Vectors = NDArray[np.float32]


def rows(*values: tuple[float, ...]) -> Vectors:
    return np.array(values, np.float32)


@pytest.fixture
def random_vectors() -> tuple[Vectors, Vectors]:
    generator = np.random.default_rng(7)
    reference = generator.normal(size=(60, 8)).astype(np.float32)
    return (reference + generator.normal(scale=0.3, size=reference.shape)).astype(np.float32), reference


def test_equal_vectors_have_perfect_metrics() -> None:
    vectors = rows((3, 4), (1, 0), (0, -2), (1, 1))
    comparison = compare(vectors, vectors)
    assert (comparison.cosine_min, comparison.cosine_mean, comparison.cosine_p1) == pytest.approx(
        (1.0, 1.0, 1.0), abs=1e-15
    )
    assert (comparison.max_abs, comparison.neighbors) == (0.0, 1.0)
    assert comparison.spearman == pytest.approx(1.0, abs=1e-12)


def test_cosine_and_difference_of_a_hand_computed_case() -> None:
    # 45 degrees, 0 degrees with twice the length, 180 degrees.
    comparison = compare(rows((1, 1), (2, 0), (-1, 0)), rows((1, 0), (1, 0), (1, 0)))
    np.testing.assert_allclose(comparison.cosines, [math.sqrt(0.5), 1.0, -1.0], atol=1e-12)
    np.testing.assert_array_equal(comparison.differences, [1.0, 1.0, 2.0])
    assert comparison.cosine_mean == pytest.approx(math.sqrt(0.5) / 3)
    assert (comparison.cosine_min, comparison.max_abs, comparison.worst) == (-1.0, 2.0, 2)


def test_worst_is_the_larger_difference_among_equal_cosines() -> None:
    assert compare(rows((1, 0), (5, 0), (2, 0)), rows((1, 0), (1, 0), (1, 0))).worst == 1


def test_first_percentile_interpolates() -> None:
    reference = np.tile(rows((1, 0)), (101, 1))
    vectors = reference.copy()
    vectors[40], vectors[77] = (
        (0, 1),
        (1, 1),
    )  # the two smallest cosines: the percentile is exactly the second
    assert compare(vectors, reference).cosine_p1 == pytest.approx(math.sqrt(0.5))


def test_spearman_is_that_of_scipy(random_vectors: tuple[Vectors, Vectors]) -> None:
    stats = pytest.importorskip("scipy.stats")
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    upper = np.triu_indices(60, 1)
    first, second = (pairwise.cosine_similarity(side.astype(np.float64))[upper] for side in random_vectors)
    assert compare(*random_vectors).spearman == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-9)


def test_spearman_shares_ranks_among_ties_as_scipy_does() -> None:
    stats = pytest.importorskip("scipy.stats")
    vectors = rows((1, 0), (1, 0), (0, 1), (0, 1), (1, 1))
    reference = rows((1, 0), (0, 1), (0, 1), (1, 1), (1, 1))
    upper = np.triu_indices(5, 1)

    def pairs(side: Vectors) -> NDArray[np.float64]:
        wide = side.astype(np.float64)
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        return np.asarray((unit @ unit.T)[upper].round(12))

    expected = stats.spearmanr(pairs(vectors), pairs(reference)).statistic
    assert compare(vectors, reference).spearman == pytest.approx(expected, abs=1e-9)


def test_neighbors_are_those_of_scikit_learn(random_vectors: tuple[Vectors, Vectors]) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")

    def nearest(side: Vectors) -> list[set[int]]:
        index = neighbors.NearestNeighbors(n_neighbors=11, metric="cosine").fit(side)
        return [
            set(neighbor_rows) - {row}
            for row, neighbor_rows in enumerate(index.kneighbors(side, return_distance=False).tolist())
        ]

    first, second = map(nearest, random_vectors)
    expected = np.mean([len(mine & its) / 10 for mine, its in zip(first, second, strict=True)])
    assert 0.5 < expected < 1
    assert compare(*random_vectors).neighbors == pytest.approx(expected)


def test_equal_texts_may_be_each_others_neighbors_in_any_order() -> None:
    generator = np.random.default_rng(1)
    reference = np.repeat(generator.normal(size=(4, 8)), 12, axis=0).astype(
        np.float32
    )  # four groups of twelve equal texts
    vectors = reference + generator.normal(scale=1e-7, size=reference.shape).astype(np.float32)
    assert compare(vectors, reference).neighbors == 1.0


def assert_fails(comparison: Comparison) -> None:
    assert not comparison.cosine_min >= 0.0
    assert not comparison.max_abs <= 1e30


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["ours", "reference"])
def test_a_vector_that_is_not_finite_never_passes(value: float, side: str) -> None:
    good = np.eye(6, dtype=np.float32)
    bad = good.copy()
    bad[3, 2] = value
    comparison = compare(bad, good) if side == "ours" else compare(good, bad)
    assert_fails(comparison)
    assert (comparison.worst, comparison.spearman) == (3, 0.0)
    assert comparison.neighbors < 1.0
    assert math.isfinite(comparison.cosine_mean)


def test_nan_on_both_sides_does_not_pass_either() -> None:
    broken = rows((math.nan, 1), (1, 0))
    assert_fails(compare(broken, broken))


def test_zero_vectors_agree_with_each_other_only() -> None:
    comparison = compare(rows((0, 0), (0, 0), (1, 0)), rows((0, 0), (1, 0), (0, 0)))
    np.testing.assert_array_equal(comparison.cosines, [1.0, 0.0, 0.0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_metrics_of_few_texts_are_defined(count: int) -> None:
    vectors = np.eye(4, dtype=np.float32)[:count]
    comparison = compare(vectors, vectors)
    assert (comparison.cosine_min, comparison.max_abs, comparison.neighbors, comparison.spearman) == (
        1.0,
        0.0,
        1.0,
        1.0,
    )


@pytest.mark.parametrize(("shape", "other"), [((0, 4), (0, 4)), ((2, 4), (3, 4)), ((2, 4), (2, 5)), ((4,), (4,))])
def test_shapes_that_cannot_be_compared_are_rejected(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        compare(np.zeros(shape, np.float32), np.zeros(other, np.float32))


def test_many_texts_are_sampled_for_pairs_but_not_for_cosines() -> None:
    vectors = np.random.default_rng(0).normal(size=(MAX_PAIRWISE + 300, 4)).astype(np.float32)
    reference = vectors.copy()
    reference[1] *= -1
    comparison = compare(vectors, reference)
    assert len(comparison.cosines) == MAX_PAIRWISE + 300
    assert comparison.cosine_min == pytest.approx(-1.0)
    assert comparison.worst == 1


def test_similarities_are_cosines_of_different_texts() -> None:
    # Pairs in order: 01 = 0, 02 = cos 45, 12 = cos 45.
    np.testing.assert_allclose(similarities(rows((1, 0), (0, 2), (1, 1)), 10), [0, math.sqrt(0.5), math.sqrt(0.5)])
    assert similarities(rows((1, 0)), 10).size == 0
    assert len(similarities(np.eye(50, dtype=np.float32), 100)) == 100
