"""Best documents of queries, found in chunks, against one sort of all similarities."""

from __future__ import annotations

import numpy as np
import pytest

from fletcher.convert.tune.mining.nearest import NearestDocuments


@pytest.mark.parametrize("chunk", [1, 7, 400, 5000])
def test_chunks_give_the_documents_of_one_sort(chunk: int) -> None:
    random = np.random.default_rng(7)
    queries = random.standard_normal((1100 if chunk > 100 else 20, 8)).astype(np.float32)
    documents = random.standard_normal((900, 8)).astype(np.float32)
    nearest = NearestDocuments(queries, 12)
    for start in range(0, len(documents), chunk):
        nearest.add(documents[start : start + chunk])
    similarities = queries @ documents.T
    for query in range(0, len(queries), 13):
        rows, scores = nearest.ranked(query)
        assert rows.tolist() == np.argsort(-similarities[query])[:12].tolist()
        assert scores == pytest.approx(np.sort(similarities[query])[::-1][:12])


def test_fewer_documents_than_places() -> None:
    nearest = NearestDocuments(np.eye(2, dtype=np.float32), 5)
    nearest.add(np.array([[0.5, 0], [1, 0]], np.float32))
    rows, scores = nearest.ranked(0)
    assert (rows.tolist(), scores.tolist()) == ([1, 0], [1.0, 0.5])
