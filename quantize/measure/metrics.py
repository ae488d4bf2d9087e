"""`compare`: compares two sets of vectors of the same texts by angle, elements, neighbors and order. It knows no model.

A vector with NaN or infinity has the cosine -1 and the difference infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import InputError

from ..samples import evenly_spaced

__all__ = ["MAX_PAIRWISE", "NEIGHBORS", "Comparison", "compare", "cosines", "similarities", "spearman"]

#: Nearest neighbors that are compared.
NEIGHBORS = 10

#: Most texts whose pairs are compared: all pairs of n texts take 16 n² bytes. Of more texts an even sample is taken.
MAX_PAIRWISE = 2048

#: Similarities closer than this are a tie, in which both orders are right: equal texts (an empty one and one of spaces) have
#: equal vectors, and the rounding of float32 changes a cosine by about 1e-7.
TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Comparison:
    """`Comparison`: similarity of vectors to their reference.

    Attributes:
        cosines: each text's cosine with its reference, float64, (n,).
        differences: each text's largest absolute difference of an element, float64, (n,).
        cosine_mean: mean of `cosines`.
        cosine_p1: first percentile of `cosines`.
        cosine_min: minimum of `cosines`.
        max_abs: maximum of `differences`.
        worst: index of the text with the smallest cosine; of equal cosines, the one with the largest difference.
        neighbors: share of each text's ten nearest other texts that are also among the reference's ten, mean over the texts.
        spearman: rank correlation of the pairwise similarities.
    """

    cosines: NDArray[np.float64]
    differences: NDArray[np.float64]
    cosine_mean: float
    cosine_p1: float
    cosine_min: float
    max_abs: float
    worst: int
    neighbors: float
    spearman: float


def compare(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> Comparison:
    """Compare vectors with their reference.

    Two zero vectors have the cosine 1; a zero vector and another one have the cosine 0. If there are too few texts for
    neighbors or for an order of pairs, those figures are 1.

    Args:
        vectors: (n, dimension), n at least 1.
        reference: (n, dimension).

    Raises:
        InputError: the shapes differ, or there are no texts.
    """
    if vectors.shape != reference.shape or vectors.ndim != 2 or len(vectors) == 0:
        raise InputError(
            f"vectors of shape {vectors.shape} cannot be compared with a reference of shape {reference.shape}: "
            "both must be (texts, dimension), with at least one text"
        )
    ours, theirs = vectors.astype(np.float64), reference.astype(np.float64)
    broken = np.logical_not(np.isfinite(np.concatenate([ours, theirs], axis=1)).all(axis=1))
    ours[broken], theirs[broken] = 0.0, 0.0
    differences = np.abs(ours - theirs).max(axis=1, initial=0.0)
    angles = cosines(ours, theirs)
    differences[broken], angles[broken] = np.inf, -1.0

    rows = evenly_spaced(len(ours), MAX_PAIRWISE)
    ours_pairs, their_pairs = _similarities(ours[rows]), _similarities(theirs[rows])
    return Comparison(
        cosines=angles,
        differences=differences,
        cosine_mean=float(angles.mean()),
        cosine_p1=float(np.percentile(angles, 1)),
        cosine_min=float(angles.min()),
        max_abs=float(differences.max()),
        worst=int(np.lexsort((-differences, angles))[0]),
        neighbors=_agreement(ours_pairs, their_pairs, broken[rows]),
        spearman=0.0 if broken.any() else spearman(_upper(ours_pairs), _upper(their_pairs)),
    )


def similarities(vectors: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    """Return the cosines of about `count` pairs of different texts, an even sample that depends only on n.

    Args:
        vectors: (n, dimension); a vector with NaN or infinity counts as zero.
        count: largest number of pairs.

    Returns:
        float64, (pairs,); empty for fewer than two texts.
    """
    clean = vectors.astype(np.float64)
    clean[~np.isfinite(clean).all(axis=1)] = 0.0
    pairs = _upper(_similarities(clean[evenly_spaced(len(clean), MAX_PAIRWISE)]))
    return pairs[evenly_spaced(len(pairs), count)]


def cosines(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows, float64, (n,): 1 for two zero vectors, 0 for a zero vector and another one.

    Args:
        ours: float64, (n, dimension).
        theirs: float64, (n, dimension).
    """
    norms, their_norms = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    products = norms * their_norms
    angles = np.sum(ours * theirs, axis=1) / np.where(products == 0, 1.0, products)
    both_zero = (norms == 0) & (their_norms == 0)
    return np.where(both_zero, 1.0, angles).clip(-1.0, 1.0)


def _similarities(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of every pair, (n, n)."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms == 0, 1.0, norms)
    return np.asarray(unit @ unit.T)


def _upper(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return every pair of different texts once."""
    return pairs[np.triu_indices(len(pairs), 1)]


def _agreement(ours: NDArray[np.float64], theirs: NDArray[np.float64], broken: NDArray[np.bool_]) -> float:
    """Return the mean share of common neighbors. A broken text has no neighbors and is not a neighbor of another text.

    Args:
        ours: similarities, (n, n).
        theirs: similarities of the reference, (n, n).
        broken: texts whose vector is not finite, (n,).
    """
    count = len(ours)
    nearest = min(NEIGHBORS, count - 1)
    if nearest == 0:
        return 0.0 if broken.any() else 1.0
    ours, theirs = ours.copy(), theirs.copy()
    ours[:, broken] = -np.inf
    np.fill_diagonal(ours, -np.inf)
    np.fill_diagonal(theirs, -np.inf)
    neighbors = np.argpartition(-ours, nearest - 1, axis=1)[:, :nearest]
    # A neighbor of ours agrees if in the reference it is at least as near as the tenth neighbor.
    tenth = -np.partition(-theirs, nearest - 1, axis=1)[:, nearest - 1]
    agreed = np.take_along_axis(theirs, neighbors, axis=1) >= tenth[:, None] - TIE
    agreed &= ~broken[neighbors]
    agreed[broken] = False
    return float(agreed.mean())


def spearman(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, in which equal values share the mean of their ranks.

    Args:
        ours: float64, (n,).
        theirs: float64, (n,).

    Returns:
        -1 to 1; 1 if all values of both sides are equal, 0 if those of only one side are.
    """
    # The noise of a dot product in float64 is rounded away, so that equal texts share a rank.
    ranks, their_ranks = _ranks(ours.round(12)), _ranks(theirs.round(12))
    ranks -= ranks.mean() if len(ranks) else 0.0
    their_ranks -= their_ranks.mean() if len(ranks) else 0.0
    power, their_power = float(ranks @ ranks), float(their_ranks @ their_ranks)
    if power == 0 or their_power == 0:
        return 1.0 if power == their_power else 0.0
    return float(ranks @ their_ranks / np.sqrt(power * their_power))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0, in which equal values share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts) + (ends - 1))[inverse] / 2.0
