"""Distribution of cosines, anisotropy, effective rank, uniformity and alignment of vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.samples import evenly_spaced

from ..results import Distribution, Geometry

__all__ = [
    "alignment",
    "anisotropy",
    "describe_geometry",
    "distribution",
    "effective_rank",
    "random_cosines",
    "spectrum",
    "uniformity",
]

Vectors = NDArray[np.float32]

#: Random pairs of a distribution: the standard error of the mean of 200,000 cosines is below 0.001.
RANDOM_PAIRS = 200_000

#: Most vectors whose pairs are all compared for uniformity, 8 million pairs.
UNIFORMITY_VECTORS = 4096

#: Bins of a histogram of cosines, from -1 to 1.
BINS = 100

#: Share of the variance for which dimensions are counted.
VARIANCE = 0.9


def describe_geometry(unit: Vectors, neighbor_cosines: NDArray[np.float32]) -> Geometry:
    """Describe vectors as a whole.

    Args:
        unit: vectors of length 1, (n, dimension), n at least 2.
        neighbor_cosines: cosines of each text with its nearest others, the nearest first, (n, k).
    """
    variances = spectrum(unit)
    shares = np.cumsum(variances) / max(variances.sum(), np.finfo(np.float64).tiny)
    return Geometry(
        random_pairs=distribution(random_cosines(unit)),
        neighbors=distribution(neighbor_cosines[:, 0]),
        tenth_neighbors=distribution(neighbor_cosines[:, -1]),
        anisotropy=anisotropy(unit),
        effective_rank=effective_rank(variances),
        dimension=unit.shape[1],
        dimensions_of_variance=int(np.searchsorted(shares, VARIANCE) + 1),
        first_component=float(shares[0]),
        uniformity=uniformity(unit[evenly_spaced(len(unit), UNIFORMITY_VECTORS)]),
    )


def distribution(values: NDArray[np.floating]) -> Distribution:
    """Return mean, standard deviation (of the values themselves, not of a sample), percentiles and histogram of cosines.

    Args:
        values: cosines, (n,), n at least 1.
    """
    counts, _ = np.histogram(np.clip(values, -1, 1), bins=BINS, range=(-1, 1))
    low, first, middle, third, high = np.percentile(values, (1, 25, 50, 75, 99)).tolist()
    return Distribution(
        count=len(values),
        mean=float(values.mean(dtype=np.float64)),
        deviation=float(values.std(dtype=np.float64)),
        p1=low,
        p25=first,
        median=middle,
        p75=third,
        p99=high,
        histogram=tuple(counts.tolist()),
    )


def random_cosines(unit: Vectors, count: int = RANDOM_PAIRS, seed: int = 0) -> NDArray[np.float32]:
    """Return cosines of random pairs of different texts, of every pair once if there are at most `count`.

    Args:
        unit: vectors of length 1, (n, dimension).
        count: largest number of pairs.
        seed: seed of the random pairs.

    Returns:
        float32, (pairs,).
    """
    size = len(unit)
    if size * (size - 1) // 2 <= count:
        rows, columns = np.triu_indices(size, 1)
    else:
        random = np.random.default_rng(seed)
        rows = random.integers(0, size, count)
        columns = (rows + random.integers(1, size, count)) % size  # never the row itself
    parts = [
        np.einsum("nd,nd->n", unit[rows[start : start + 8192]], unit[columns[start : start + 8192]])
        for start in range(0, len(rows), 8192)
    ]
    return np.concatenate(parts)


def anisotropy(unit: Vectors) -> float:
    """Return the mean cosine of all pairs of different vectors, in closed form: (|sum|² - n) / (n (n - 1)).

    0 means directions without a preferred one, 1 means one direction. Ethayarajh (EMNLP 2019) estimates it from random pairs.

    Args:
        unit: vectors of length 1, (n, dimension), n at least 2.
    """
    total = unit.sum(axis=0, dtype=np.float64)
    squares = float(np.square(unit, dtype=np.float64).sum())
    return float((total @ total - squares) / (len(unit) * (len(unit) - 1)))


def spectrum(vectors: Vectors) -> NDArray[np.float64]:
    """Return the variances along the principal components, largest first, float64, (dimension,).

    They are scikit-learn's `PCA.explained_variance_`, followed by zeros if there are fewer vectors than dimensions.
    """
    centered = vectors - vectors.mean(axis=0, dtype=np.float64)
    values = np.linalg.eigvalsh(centered.T @ centered)[::-1] / (len(vectors) - 1)
    return np.asarray(np.maximum(values, 0.0))


def effective_rank(variances: NDArray[np.float64]) -> float:
    """Return the exponential of the entropy of the singular values' shares (Roy and Vetterli, EUSIPCO 2007).

    It is the dimension if all directions vary equally, and 1 if only one varies. All vectors equal give 0.

    Args:
        variances: variances along the principal components, whose square roots are proportional to the singular values of
            the centered vectors.
    """
    # Rounding leaves variances of about 1e-17 where there are none, whose square roots would count.
    singular = np.sqrt(np.where(variances > variances.max(initial=0.0) * 1e-12, variances, 0.0))
    shares = singular[singular > 0] / max(singular.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def uniformity(unit: Vectors) -> float:
    """Return log mean exp(-2 |x - y|²) over all pairs of different vectors (Wang and Isola, ICML 2020).

    0 is the worst value; vectors spread evenly over a sphere of many dimensions have about -4.

    Args:
        unit: vectors of length 1, (n, dimension), n at least 2.
    """
    size, total = len(unit), 0.0
    for start in range(0, size, 512):
        products = np.clip(unit[start : start + 512].astype(np.float64) @ unit.T, -1, 1)
        total += float(np.exp(-4 * (1 - products)).sum())
    pairs = size * (size - 1)
    own = float(np.exp(-4 * (1 - np.clip(np.einsum("nd,nd->n", unit, unit, dtype=np.float64), -1, 1))).sum())
    return float(np.log((total - own) / pairs))


def alignment(first: Vectors, second: Vectors) -> float:
    """Return the mean |x - y|² of pairs that belong together (Wang and Isola, ICML 2020); 0 is the best value.

    Args:
        first: vectors of length 1, (pairs, dimension).
        second: vectors of length 1, (pairs, dimension).
    """
    return float(np.square(first - second, dtype=np.float64).sum(axis=1).mean())
