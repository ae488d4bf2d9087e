"""Map of the texts: the principal components of scikit-learn, and UMAP's own result."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize

from fletcher.convert.quality.measures.plane import draw_map


@pytest.mark.slow  # UMAP is compiled for 10 s
def test_points_are_those_of_scikit_learn_and_of_umap() -> None:
    umap = pytest.importorskip("umap")
    unit = np.asarray(normalize(np.random.default_rng(7).standard_normal((60, 8)) + 0.3), np.float32)
    found = draw_map(unit)
    assert found.rows == tuple(range(60))
    pca = PCA(2, svd_solver="full").fit(unit.astype(np.float64))
    expected = pca.transform(unit.astype(np.float64))
    assert np.abs(found.pca) == pytest.approx(np.abs(expected), abs=1e-4)  # signs are arbitrary
    assert found.pca_variance == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-6)
    placed = umap.UMAP(n_neighbors=15, metric="cosine", random_state=0, n_jobs=1).fit_transform(unit)
    assert np.array(found.umap) == pytest.approx(placed, abs=1e-3)
