"""Nearest neighbors of texts, hubs among them, and near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.measure.retrieval import nearest

from ...verify.report import excerpt
from ..results import DuplicatePair, Duplicates, Hubness

__all__ = ["NEIGHBORS", "Neighbors", "describe_hubness", "find_duplicates", "find_neighbors"]

#: Nearest neighbors that are compared.
NEIGHBORS = 10

#: Pairs of near-duplicates that a report shows.
SHOWN_DUPLICATES = 20


@dataclass(frozen=True, slots=True)
class Neighbors:
    """`Neighbors`: nearest other texts of each text.

    Attributes:
        rows: their rows, the nearest first, int64, (n, k).
        cosines: their cosines, float32, (n, k).
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]


def find_neighbors(unit: NDArray[np.float32], count: int = NEIGHBORS) -> Neighbors:
    """Return the nearest other texts of each text, by an exact search.

    Args:
        unit: vectors of length 1, (n, dimension), n above `count`.
        count: neighbors of each text.
    """
    rows = nearest(unit, unit, count, np.arange(len(unit)))
    cosines = np.concatenate([np.einsum("qd,qkd->qk", unit[part], unit[rows[part]]) for part in _parts(len(unit))])
    return Neighbors(rows, cosines)


def _parts(size: int) -> list[slice]:
    return [slice(start, start + 1024) for start in range(0, size, 1024)]


def describe_hubness(neighbors: Neighbors, texts: Sequence[str]) -> Hubness:
    """Describe the distribution of k-occurrences: the number of texts that have a text among their neighbors.

    Source: Radovanović, Nanopoulos and Ivanović, JMLR 2010. The skewness is the third standardized moment.

    Args:
        neighbors: neighbors of the texts.
        texts: the texts.
    """
    size, count = neighbors.rows.shape
    occurrences = np.bincount(neighbors.rows.ravel(), minlength=size).astype(np.float64)
    centered = occurrences - occurrences.mean()
    spread = float(np.sqrt(np.square(centered).mean()))
    return Hubness(
        neighbors=count,
        skewness=float((centered**3).mean() / spread**3) if spread > 0 else 0.0,
        never=float((occurrences == 0).mean()),
        largest=int(occurrences.max()),
        largest_text=excerpt(texts[int(occurrences.argmax())]),
    )


def find_duplicates(neighbors: Neighbors, texts: Sequence[str], threshold: float, copies: int) -> Duplicates:
    """Return the share of texts that have a near-duplicate, and the closest pairs.

    Args:
        neighbors: neighbors of the different texts.
        texts: the different texts.
        threshold: smallest cosine of a near-duplicate.
        copies: number of texts that are equal to an earlier one, letter by letter, and are not among the different texts.
    """
    close = neighbors.cosines[:, 0] >= threshold
    found: dict[tuple[int, int], float] = {}
    for row in np.flatnonzero(close)[np.argsort(-neighbors.cosines[close, 0], kind="stable")].tolist():
        other = int(neighbors.rows[row, 0])
        found.setdefault((min(row, other), max(row, other)), float(neighbors.cosines[row, 0]))
        if len(found) == SHOWN_DUPLICATES:
            break
    return Duplicates(
        threshold=threshold,
        copies=copies,
        copies_share=copies / (len(texts) + copies),
        near_share=float(close.mean()),
        pairs=tuple(
            DuplicatePair(first=excerpt(texts[first]), second=excerpt(texts[second]), cosine=cosine)
            for (first, second), cosine in found.items()
        ),
    )
