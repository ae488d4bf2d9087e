"""Shorter vectors and smaller types: PCA against scikit-learn, neighbors in cases worked out by hand, and the advice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import ndcg_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from fletcher.convert.quality.measures.compression import Judged, advise, describe_compression, lengths_to_try
from fletcher.convert.quality.measures.projection import fit_projection
from fletcher.convert.quality.measures.retrieval import RetrievalTask
from fletcher.convert.quality.results import Compressed


def unit_vectors(count: int, dimension: int, rank: int) -> NDArray[np.float32]:
    random = np.random.default_rng(4)
    vectors = random.standard_normal((count, rank)) @ random.standard_normal((rank, dimension)) + 0.5
    return np.asarray(normalize(vectors), np.float32)


def test_pca_is_that_of_scikit_learn_without_subtraction_of_the_mean() -> None:
    vectors = unit_vectors(200, 24, 24).astype(np.float64)
    pca = PCA(8, svd_solver="full").fit(vectors)
    expected = normalize(pca.transform(vectors) + pca.mean_ @ pca.components_.T)
    found = fit_projection(vectors.astype(np.float32), 8)(vectors.astype(np.float32))
    # Components have arbitrary signs, which no product of two vectors depends on.
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-5)


def test_whitened_pca_is_that_of_scikit_learn() -> None:
    vectors = unit_vectors(200, 24, 24).astype(np.float64)
    expected = normalize(PCA(8, whiten=True, svd_solver="full").fit_transform(vectors))
    found = fit_projection(vectors.astype(np.float32), 8, whiten=True)(vectors.astype(np.float32))
    assert found @ found.T == pytest.approx(expected @ expected.T, abs=1e-5)


def test_the_first_components_are_pca_to_that_length() -> None:
    vectors = unit_vectors(100, 24, 24)
    short, long = fit_projection(vectors, 4), fit_projection(vectors, 16).first(4)
    assert np.abs(short.weight) == pytest.approx(np.abs(long.weight), abs=1e-5)


def test_vectors_of_few_directions_lose_no_neighbor_by_pca_and_some_by_a_cut() -> None:
    # 20 directions and the mean: 32 components hold everything, the first 32 of 96 elements do not.
    results = describe_compression(unit_vectors(400, 96, 20), trained=())
    by = {(one.method, one.dimension, one.type): one.overlap for one in results}
    assert by["full", 96, "float32"] == 1.0
    assert by["pca", 32, "float32"] > 0.99
    assert by["cut", 32, "float32"] < 0.9
    assert by["full", 96, "int8"] > by["full", 96, "binary"]
    assert not any(one.method == "pca-whitened" for one in results)


def neighbors_of(vectors: NDArray[Any], count: int, metric: str = "cosine") -> list[set[int]]:
    """Return the nearest others of each vector by scikit-learn."""
    rows = NearestNeighbors(n_neighbors=count + 1, metric=metric).fit(vectors).kneighbors(vectors)[1]
    return [set(found[found != row][:count].tolist()) for row, found in enumerate(rows)]


def test_neighbors_that_stay_are_those_of_scikit_learn() -> None:
    unit = unit_vectors(300, 64, 30)
    results = describe_compression(unit, trained=())
    by = {(one.method, one.dimension, one.type): one.overlap for one in results}
    held = unit[1::2]
    truth = neighbors_of(held, 10)

    def share(found: list[set[int]]) -> float:
        return float(np.mean([len(one & other) / 10 for one, other in zip(found, truth, strict=True)]))

    short = normalize(held[:, :32])
    codes = np.rint(held / np.abs(held).max(axis=1, keepdims=True) * 127)  # symmetric, one scale for each vector
    assert by["cut", 32, "float32"] == pytest.approx(share(neighbors_of(short, 10)), abs=0.001)
    assert by["full", 64, "float16"] == pytest.approx(share(neighbors_of(held.astype(np.float16), 10)), abs=0.001)
    assert by["full", 64, "int8"] == pytest.approx(share(neighbors_of(codes, 10)), abs=0.001)
    # The best 40 by bits, of which the best 10 by the float32 query and the int8 vectors on disk.
    candidates = neighbors_of(held > 0, 40, "hamming")
    scaled = codes * np.abs(held).max(axis=1, keepdims=True) / 127
    best = [
        set(sorted(found, key=lambda other: -float(held[row] @ scaled[other]))[:10])
        for row, found in enumerate(candidates)
    ]
    # The fortieth has equally many bits as others, of which either order is right.
    assert by["full", 64, "binary"] == pytest.approx(share(best), abs=0.01)


def test_ndcg_of_smaller_vectors_is_that_of_scikit_learn() -> None:
    unit = unit_vectors(240, 64, 40)
    queries = np.asarray(normalize(unit[:20] + 0.1 * unit[100:120]), np.float32)
    names = [f"d{row}" for row in range(240)]
    asked = [f"q{row}" for row in range(20)]
    judgments = {query: {names[row]: 1, names[row + 100]: 2} for row, query in enumerate(asked)}
    judged = Judged(RetrievalTask(names, asked, judgments), unit, queries)
    results = describe_compression(unit, trained=(), judged=judged)
    truth = np.zeros((20, 240))
    for row in range(20):
        truth[row, [row, row + 100]] = 1, 2
    found = {(one.method, one.dimension, one.type): one.ndcg for one in results}
    documents, short = normalize(unit[:, :32]), normalize(queries[:, :32])
    assert found["cut", 32, "float32"] == pytest.approx(ndcg_score(truth, short @ documents.T, k=10), abs=1e-6)
    assert found["full", 64, "float16"] is None
    assert found["pca", 32, "int8"] is not None and found["pca-whitened", 32, "int8"] is not None


def test_a_type_is_stored_in_its_bytes() -> None:
    results = describe_compression(unit_vectors(100, 64, 10), trained=(48,))
    sizes = {one.type: one.bytes for one in results if one.dimension == 64}
    assert sizes == {"float32": 256, "float16": 128, "int8": 64, "binary": 8}
    assert {one.dimension for one in results if one.trained} == {48}


def test_lengths_are_below_the_dimension_and_contain_trained_ones() -> None:
    assert lengths_to_try(384, (300, 384)) == [300, 256, 192, 128, 64, 32]
    assert lengths_to_try(16, ()) == []


def test_advice_is_the_smallest_vector_that_keeps_enough() -> None:
    def one(kind: str, size: int, overlap: float) -> Compressed:
        return Compressed(method="pca", dimension=size, trained=False, type=kind, bytes=size, overlap=overlap)

    results = [one("float32", 400, 1.0), one("int8", 100, 0.96), one("int8", 64, 0.94), one("binary", 8, 0.99)]
    assert advise(results, 0.95) == results[1]
    assert advise(results, 0.9) == results[2]
    assert advise(results, 1.01) is None
