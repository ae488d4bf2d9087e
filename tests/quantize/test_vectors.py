"""Codes of stored vectors, compared with sentence-transformers, and searches, compared with brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.quantize.measure.retrieval import nearest, search, storage_quality
from fletcher.quantize.vectors import FEWEST_VECTORS, Calibration, decode, encode, learn, load, save
from fletcher.runtime.errors import InputError

Vectors = NDArray[np.float32]
DIMENSION = 48


def clustered(count: int, seed: int) -> Vectors:
    """Return unit vectors around twelve centers. As in vectors of models, dimensions differ in spread and mean."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(12, DIMENSION))
    spread = np.linspace(0.2, 3, DIMENSION)
    raw = (centers[rng.integers(12, size=count)] + rng.normal(size=(count, DIMENSION)) * 0.8) * spread + 0.4
    unit: Vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return learn(clustered(200, 1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_codes_are_those_of_sentence_transformers(calibration: Calibration) -> None:
    util = pytest.importorskip("sentence_transformers.util.quantization")
    sample, vectors = clustered(200, 1), clustered(90, 2)
    ranges = np.stack([sample.min(axis=0), sample.max(axis=0)])
    reference = util.quantize_embeddings(vectors, "int8", ranges=ranges)
    np.testing.assert_array_equal(encode(vectors, calibration, "int8"), reference)
    assert reference.min() == -128  # some values are outside the ranges of the sample
    np.testing.assert_array_equal(encode(vectors, calibration, "binary"), util.quantize_embeddings(vectors, "ubinary"))


def test_an_element_in_range_differs_by_at_most_half_a_step(calibration: Calibration) -> None:
    sample = clustered(200, 1)
    error = np.abs(decode(encode(sample, calibration, "int8"), calibration) - sample)
    assert (error <= calibration.step * 0.502).all()


def test_a_bit_decodes_to_the_mean_of_its_side(calibration: Calibration) -> None:
    sample = clustered(200, 1)
    decoded = decode(encode(sample, calibration, "binary"), calibration)
    column = sample[:, 7]
    np.testing.assert_allclose(decoded[column > 0, 7], column[column > 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(decoded[column <= 0, 7], column[column <= 0].mean(), rtol=1e-5)


def test_quantiles_and_medians_are_those_of_numpy() -> None:
    sample = clustered(200, 1)
    learned = learn(sample, quantile=0.02, centered=True)
    low, high = np.percentile(sample, [2, 98], axis=0)
    np.testing.assert_allclose(learned.low, low, atol=1e-6)
    np.testing.assert_allclose(learned.low + 255 * learned.step, high, atol=1e-6)
    bits = np.unpackbits(encode(sample, learned, "binary").view(np.uint8), axis=1)[:, :DIMENSION]
    np.testing.assert_array_equal(bits.sum(axis=0), 100)


def test_a_dimension_that_never_changes_is_kept() -> None:
    sample = clustered(40, 1)
    sample[:, 5] = 0.25
    learned = learn(sample)
    assert np.isfinite(decode(encode(sample, learned, "int8"), learned)).all()


def brute_force(queries: Vectors, documents: Vectors, count: int) -> list[list[int]]:
    wide = queries.astype(np.float64) @ documents.astype(np.float64).T
    np.fill_diagonal(wide, -np.inf)
    nearest_rows: list[list[int]] = np.argsort(-wide, axis=1, kind="stable")[:, :count].tolist()
    return nearest_rows


def test_nearest_equals_brute_force() -> None:
    vectors = clustered(300, 3)
    assert nearest(vectors, vectors, 10, np.arange(300)).tolist() == brute_force(vectors, vectors, 10)


def test_binary_search_counts_bits_that_differ(calibration: Calibration) -> None:
    vectors = clustered(60, 4)
    nearest_rows = search(vectors, vectors, calibration, "binary", "none", own=np.arange(60))
    codes = encode(vectors, calibration, "binary")
    distances = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2).astype(int)
    np.fill_diagonal(distances, 10_000)
    for row in range(60):
        assert sorted(distances[row][nearest_rows[row]]) == sorted(distances[row])[:10]


def test_rescoring_with_float32_has_the_order_of_float32(calibration: Calibration) -> None:
    vectors = clustered(40, 5)  # there are 4 times 10 candidates, so all 39 vectors are candidates
    nearest_rows = search(vectors, vectors, calibration, "binary", "float32", own=np.arange(40))
    assert nearest_rows.tolist() == brute_force(vectors, vectors, 10)


def test_rescoring_improves_the_overlap_and_int8_more_than_bits() -> None:
    vectors = clustered(700, 6)
    results = {(result.code, result.rescoring): result for result in storage_quality(vectors, learn(clustered(300, 7)))}
    overlap = {key: result.overlap for key, result in results.items()}
    assert overlap["int8", "none"] > 0.9 and overlap["int8", "codes"] >= overlap["int8", "none"] - 0.005
    assert overlap["binary", "none"] < overlap["binary", "codes"] < overlap["binary", "int8"]
    assert overlap["binary", "int8"] <= overlap["binary", "float32"] + 0.01
    assert results["int8", "none"].smaller == 4 and results["binary", "none"].smaller == 32


def test_calibrations_are_read_from_their_file(calibration: Calibration, tmp_path: Path) -> None:
    file = tmp_path / "vectors.safetensors"
    save(calibration, file, {"artifact": "ab"})
    loaded, vectors = load(file), clustered(20, 8)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    for code in ("int8", "binary"):
        np.testing.assert_array_equal(encode(vectors, loaded, code), encode(vectors, calibration, code))


def test_invalid_samples_and_files_are_rejected(calibration: Calibration, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"at least {FEWEST_VECTORS}"):
        learn(clustered(FEWEST_VECTORS - 1, 0))
    broken = clustered(50, 0)
    broken[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN or infinity"):
        learn(broken)
    with pytest.raises(InputError, match=r"below 0\.5"):
        learn(clustered(50, 0), quantile=0.5)
    with pytest.raises(InputError, match="do not fit"):
        encode(clustered(5, 0)[:, :4], calibration, "int8")
    with pytest.raises(InputError, match="too few for 10 neighbors"):
        storage_quality(clustered(10, 0), calibration)
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "missing")
    (tmp_path / "other").write_bytes(b"nothing of that")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "other")
