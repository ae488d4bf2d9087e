"""Searches over stored vectors against brute force on the codes that Fletcher serves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.quantize.measure.retrieval import WAYS, StorageResult, Way, nearest, search, storage_quality
from fletcher.runtime.errors import InputError
from fletcher.runtime.tasks.postprocess import cast

Vectors = NDArray[np.float32]
DIMENSION = 48


def clustered(count: int, seed: int, dimension: int = DIMENSION) -> Vectors:
    """Unit vectors around twelve centers, dimensions of very different spread and off zero, as models give them."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(12, dimension))
    spread = np.linspace(0.2, 3, dimension)
    raw = (centers[rng.integers(12, size=count)] + rng.normal(size=(count, dimension)) * 0.8) * spread + 0.4
    unit: Vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return unit


def brute_force(scores: NDArray[np.float64], count: int = 10) -> list[list[int]]:
    """Return the best columns of a square of scores, without the diagonal."""
    np.fill_diagonal(scores, -np.inf)
    rows: list[list[int]] = np.argsort(-scores, axis=1, kind="stable")[:, :count].tolist()
    return rows


def products(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors @ vectors.T)


def test_nearest_is_brute_force() -> None:
    vectors = clustered(300, 3)
    rows = nearest(vectors, vectors, 10, np.arange(300))
    assert rows.tolist() == brute_force(products(vectors.astype(np.float64)))


def test_int8_codes_as_they_are_ignore_the_scales() -> None:
    """A database gets bytes: its dot product is that of integers, and its cosine divides by the length of the codes."""
    vectors = clustered(200, 4)
    codes, scales = cast(vectors, "int8")
    assert codes.dtype == np.int8 and scales is not None
    wide = codes.astype(np.float64)
    dots, own = products(wide), np.arange(200)
    rows = search(vectors, vectors, Way("int8", "dot", "none"), own=own)
    best = np.take_along_axis(dots, np.array(brute_force(dots.copy())), axis=1)
    # Integers have ties, in which every order is right.
    np.testing.assert_array_equal(np.take_along_axis(dots, rows, axis=1), best)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    rows = search(vectors, vectors, Way("int8", "cosine", "none"), own=own)
    assert rows.tolist() == brute_force(products(wide / lengths))
    rows = search(vectors, vectors, Way("int8", "scaled", "none"), own=own)
    assert rows.tolist() == brute_force(products(wide * scales[:, None].astype(np.float64)))


def test_binary_search_counts_bits_that_differ() -> None:
    vectors = clustered(60, 4)
    rows = search(vectors, vectors, Way("ubinary", "hamming", "none"), own=np.arange(60))
    codes, _ = cast(vectors, "ubinary")
    distances = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2).astype(int)
    np.fill_diagonal(distances, 10_000)
    for row in range(60):
        assert sorted(distances[row][rows[row]]) == sorted(distances[row])[:10]


def test_rescoring_with_float32_orders_the_candidates_as_float32_does() -> None:
    vectors = clustered(40, 5)  # 4 times 10 candidates of 39: every other vector is one
    rows = search(vectors, vectors, Way("ubinary", "hamming", "float32"), own=np.arange(40))
    assert rows.tolist() == brute_force(products(vectors.astype(np.float64)))


def test_rescoring_finds_more_and_int8_more_than_bits() -> None:
    results = {
        (result.dtype, result.comparing, result.rescoring): result for result in storage_quality(clustered(700, 6))
    }
    assert set(results) == {(way.dtype, way.comparing, way.rescoring) for way in WAYS}
    overlap = {key: result.overlap for key, result in results.items()}
    assert overlap["int8", "cosine", "none"] > 0.9 > overlap["int8", "dot", "none"]
    assert overlap["int8", "cosine", "none"] == pytest.approx(overlap["int8", "scaled", "none"], abs=0.01)
    assert overlap["int8", "cosine", "codes"] >= overlap["int8", "cosine", "none"] - 0.005
    binary = [overlap["ubinary", "hamming", rescoring] for rescoring in ("none", "codes", "int8")]
    assert binary == sorted(set(binary))
    assert binary[-1] <= overlap["ubinary", "hamming", "float32"] + 0.01


@pytest.mark.parametrize(("rescoring", "candidates"), [("none", 10), ("codes", 40)])
def test_a_result_says_how_many_candidates_it_rescored(rescoring: str, candidates: int) -> None:
    assert {result.candidates for result in _results() if result.rescoring == rescoring} == {candidates}


def test_sizes_are_those_of_the_stored_types() -> None:
    sizes = {result.dtype: (result.bytes, result.smaller) for result in _results()}
    assert sizes == {"int8": (DIMENSION, 4), "ubinary": (DIMENSION // 8, 32)}


def _results() -> list[StorageResult]:
    return storage_quality(clustered(60, 1))


def test_bits_need_whole_bytes() -> None:
    assert {result.dtype for result in storage_quality(clustered(60, 1, dimension=44))} == {"int8"}


def test_too_few_vectors() -> None:
    with pytest.raises(InputError, match="too few for 10 neighbors"):
        storage_quality(clustered(10, 0))
