"""Two artifacts on the same texts: common neighbors, order of similarities, and the texts that moved most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.measure.metrics import spearman
from fletcher.quantize.samples import evenly_spaced

from ...verify.report import excerpt
from ..results import ArtifactComparison, MovedText
from .neighbors import Neighbors

__all__ = ["compare_artifacts"]

Vectors = NDArray[np.float32]

#: Most texts whose similarities are ranked.
MOST_RANKED = 2000

#: Texts that moved most, as many as a report shows.
SHOWN_MOVED = 20


def compare_artifacts(
    first: tuple[Vectors, Neighbors], second: tuple[Vectors, Neighbors], names: tuple[str, str], texts: Sequence[str]
) -> ArtifactComparison:
    """Compare the vectors of two artifacts, whose dimensions may differ.

    Args:
        first: vectors of length 1, (n, dimension), and neighbors.
        second: those of the other artifact, of the same texts.
        names: names of the two for the sentence.
        texts: the texts.
    """
    (unit, neighbors), (other_unit, other_neighbors) = first, second
    count = neighbors.rows.shape[1]
    shares = np.array(
        [
            len(set(ours) & set(theirs)) / count
            for ours, theirs in zip(neighbors.rows.tolist(), other_neighbors.rows.tolist(), strict=True)
        ]
    )
    ranked = evenly_spaced(len(unit), MOST_RANKED)
    ours, theirs = (vectors[ranked].astype(np.float64) @ vectors[ranked].T for vectors in (unit, other_unit))
    upper = np.triu_indices(len(ranked), 1)
    order = np.lexsort((np.arange(len(shares)), shares))[:SHOWN_MOVED]
    moved = [
        MovedText(
            text=excerpt(texts[row]),
            overlap=float(shares[row]),
            correlation=spearman(*(_others(vectors, ranked, int(row)) for vectors in (unit, other_unit))),
            nearest=excerpt(texts[neighbors.rows[row, 0]]),
            other_nearest=excerpt(texts[other_neighbors.rows[row, 0]]),
        )
        for row in order
    ]
    overlap, correlation = float(shares.mean()), spearman(ours[upper], theirs[upper])
    return ArtifactComparison(
        sentence=f"{names[0]} and {names[1]} agree on {overlap:.1%} of the {count} nearest neighbors of a text; the rank "
        f"correlation of their similarities is {correlation:.3f}.",
        overlap=overlap,
        spearman=correlation,
        moved=tuple(sorted(moved, key=lambda one: (one.overlap, one.correlation))),
    )


def _others(unit: Vectors, ranked: NDArray[np.int64], row: int) -> NDArray[np.float64]:
    """Return the similarities of a text to the ranked texts other than itself, float64."""
    return np.asarray(unit[ranked[ranked != row]].astype(np.float64) @ unit[row])
