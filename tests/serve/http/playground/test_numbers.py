"""Numbers that the page computes: principal components, neighbors, and the work of the server between two scrapes."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from fletcher.serve.top.frame import STAGES, compare
from fletcher.serve.top.scrape import parse_page

from .browser import Tab

Floats = NDArray[np.float32]


def clusters(count: int = 300, size: int = 24, groups: int = 5) -> Floats:
    """Return vectors of length 1 in groups."""
    generator = np.random.default_rng(3)
    centers = generator.normal(size=(groups, size))
    found = centers[np.arange(count) % groups] + 0.45 * generator.normal(size=(count, size))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def work(modules: Tab, vectors: Floats, operation: str) -> Any:
    """Call an operation of the page's worker on some vectors."""
    rows, size = vectors.shape
    script = "const {call} = await import('./playground/work/desk.js');"
    script += f"await call('begin', {{rows: {rows}, size: {size}}});"
    script += f"await call('put', {{row: 0, values: new Float32Array({vectors.ravel().tolist()})}});"
    script += f"const found = await call('{operation}');"
    return modules.run(script + "return {...found, places: [...found.places], rows: found.rows && [...found.rows]}")


@pytest.mark.parametrize("vectors", [clusters(), clusters(40, 3, 1), clusters(2, 8, 1)], ids=["groups", "cloud", "two"])
def test_the_map_shows_the_principal_components(modules: Tab, vectors: Floats) -> None:
    found = work(modules, vectors, "principal")
    pca = PCA(2, svd_solver="full").fit(vectors.astype(np.float64))
    places = np.array(found["places"]).reshape(-1, 2)
    expected = pca.transform(vectors.astype(np.float64))
    for axis in range(2):
        sign = np.sign(places[:, axis] @ expected[:, axis]) or 1.0
        np.testing.assert_allclose(sign * places[:, axis], expected[:, axis], atol=2e-3)
    assert found["share"] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-4)


def test_equal_vectors_have_a_map(modules: Tab) -> None:
    found = work(modules, np.ones((5, 4), np.float32), "principal")
    assert np.abs(found["places"]).max() < 1e-6


def test_neighbors_stay_together_as_in_umap(modules: Tab) -> None:
    vectors = clusters(450, groups=15)
    found = work(modules, vectors, "neighbors")
    places = np.array(found["places"]).reshape(-1, 2)
    assert found["rows"] == list(range(len(vectors)))
    # umap-learn 0.5.12 reaches 0.9937 to 0.9940 on these vectors (seeds 0 to 2), principal components 0.886.
    assert trustworthiness(vectors, places, n_neighbors=15, metric="cosine") > 0.99
    few = work(modules, vectors[:40], "neighbors")
    assert work(modules, vectors[:40], "neighbors")["places"] == few["places"]


def test_nearest_rows_are_exact(modules: Tab) -> None:
    vectors = clusters(80)
    script = "const {nearestRows} = await import('./playground/work/neighbors.js');"
    script += f"const found = await nearestRows({{data: new Float32Array({vectors.ravel().tolist()}), "
    script += "size: 24, rows: 80}, 7);"
    found = modules.run(script + "return [...found.ids]")
    _, expected = NearestNeighbors(n_neighbors=8, metric="cosine").fit(vectors).kneighbors(vectors)
    assert np.array(found).reshape(80, 7).tolist() == expected[:, 1:].tolist()


def test_the_work_between_two_scrapes_is_that_of_the_terminal_view(modules: Tab, address: str) -> None:
    """`fletcher-serve top` reads the same pages with the parser of Prometheus' own client."""
    first = httpx.get(f"{address}/metrics").text
    for count in (1, 5, 40):
        httpx.post(f"{address}/v1/embeddings", json={"model": "fake-model", "input": ["some text"] * count})
    second = httpx.get(f"{address}/metrics").text
    script = "const {parse, work} = await import('./playground/inside/prometheus.js');"
    found = modules.run(f"{script} return work(parse({json.dumps(first)}, 10), parse({json.dumps(second)}, 12.5))")
    expected = compare(parse_page(first, 10.0), parse_page(second, 12.5))
    for stage, row, (name, _) in zip(found["stages"], expected.stages, STAGES, strict=True):
        assert stage["stage"] == row.stage == name
        assert stage["perSecond"] == pytest.approx(row.per_second)
        for mine, theirs in ((stage["mean"], row.mean), (stage["p50"], row.p50), (stage["p99"], row.p99)):
            assert mine == (None if theirs is None else pytest.approx(theirs))
    assert found["textsPerSecond"] == pytest.approx(expected.batches.texts_per_second)
    assert found["tokensPerSecond"] == pytest.approx(expected.batches.tokens_per_second)
    assert found["textsOfBatch"] == pytest.approx(expected.batches.texts)
    assert found["tokensOfBatch"] == pytest.approx(expected.batches.tokens)
    assert found["padding"] == pytest.approx(expected.batches.padding)
    assert found["requests"] == pytest.approx(sum(row.per_second for row in expected.routes))
    assert found["connections"] == expected.queue.connections


def test_labels_have_escapes_and_counts_begin_again(modules: Tab) -> None:
    page = 'a_total{x="quo\\\\te\\" \\n, }"} 3\na_total{x="b"} +Inf\n# HELP a_total x\nb 1e3 1700000000\n'
    script = "const {parse, rise} = await import('./playground/inside/prometheus.js');"
    found = modules.run(
        f"{script} return [Object.fromEntries(parse({json.dumps(page)}, 0).values), rise(5, 7), rise(5, 2)]"
    )
    assert found[0]["a_total"][0] == {"labels": {"x": 'quo\\te" \n, }'}, "value": 3}
    assert found[0]["b"] == [{"labels": {}, "value": 1000}]
    assert found[1:] == [2, 2]


def test_search_is_quick_while_a_layout_is_computed(modules: Tab) -> None:
    """The worker answers a search between the steps of a layout."""
    vectors = clusters(250, 160)
    script = "const {call} = await import('./playground/work/desk.js');"
    script += f"await call('begin', {{rows: {len(vectors)}, size: 160}});"
    script += "const layout = call('neighbors').then(() => 'layout');"
    script += "const query = call('top', {vector: new Float32Array(160), most: 3}).then(() => 'search');"
    assert (
        modules.run(script + "const first = await Promise.race([layout, query]); await layout; return first")
        == "search"
    )
