"""Texts in the plane, by PCA and by UMAP."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from fletcher.quantize.samples import evenly_spaced

from ..packages import require_map_packages
from ..results import Map

__all__ = ["draw_map"]

#: Most points: a page with more is slow, and UMAP takes time in proportion.
MOST_POINTS = 4000

#: UMAP's default.
UMAP_NEIGHBORS = 15


def draw_map(unit: NDArray[np.float32]) -> Map:
    """Place texts in the plane, by the first two principal components and by UMAP with its default settings.

    Args:
        unit: vectors of length 1, (n, dimension), n at least 4. Of many an even sample is drawn.

    Raises:
        MissingPackageError: scikit-learn or UMAP is not installed.
    """
    require_map_packages()
    from sklearn.decomposition import PCA

    rows = evenly_spaced(len(unit), MOST_POINTS)
    pca = PCA(2, svd_solver="covariance_eigh").fit(unit.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP's dependencies warn about each other
        from umap import UMAP

        # A seed makes the map the same at each run, and UMAP then uses one thread.
        placed = UMAP(
            n_neighbors=min(UMAP_NEIGHBORS, len(rows) - 1), metric="cosine", random_state=0, n_jobs=1
        ).fit_transform(unit[rows])
    return Map(
        rows=tuple(rows.tolist()),
        pca=_points(pca.transform(unit[rows].astype(np.float64))),
        umap=_points(placed),
        pca_variance=float(pca.explained_variance_ratio_.sum()),
    )


def _points(values: NDArray[np.floating]) -> tuple[tuple[float, float], ...]:
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in values)
