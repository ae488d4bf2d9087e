"""View "Search" in a real browser: rows of files, their vectors, search, and the map."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from .browser import Tab

WORDS = ("warm", "cold", "old", "new", "red", "blue", "fast", "slow")
THINGS = ("bread", "key", "door", "car", "bird")
ROWS = [(f"{word} {thing} {number}", thing, number) for number, word in enumerate(WORDS) for thing in THINGS]
QUERY = "a warm key"


def table(path: Path) -> Path:
    """Write the rows as csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "thing", "number"), *ROWS])
    return path


def unit(address: str, texts: list[str], input_type: str) -> NDArray[np.float64]:
    """Return the vectors of the API, scaled to length 1."""
    body = {"model": "fake-model", "input": texts, "input_type": input_type}
    answer = httpx.post(f"{address}/v1/embeddings", json=body, verify=False).raise_for_status().json()
    found = np.array([item["embedding"] for item in answer["data"]], np.float64)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def load(tab: Tab, path: Path) -> None:
    tab.run("location.hash = 'search'")
    tab.choose_file("#file", path)
    tab.wait("document.getElementById('rows').checkVisibility() || document.querySelector('#search-error p') !== null")


def embed(tab: Tab) -> None:
    tab.click("#embed")
    tab.wait("document.getElementById('search-ready').checkVisibility()")
    tab.wait("document.getElementById('map').innerText.includes('variance')")


def search(tab: Tab, query: str = QUERY) -> list[dict[str, Any]]:
    """Search, and return the results that the page has."""
    tab.fill("#query", query)
    tab.run("document.getElementById('search-status').textContent = ''")
    tab.click("#search-form button.main")
    tab.wait("/\\d ms/.test(document.getElementById('search-status').textContent)")
    results = tab.run("const {state} = await import('./playground/search/view.js'); return state.results")
    return list(results)


@pytest.fixture
def ready(tab: Tab, tmp_path: Path) -> Tab:
    """Return the page with the embedded rows of a csv file."""
    load(tab, table(tmp_path / "rows.csv"))
    embed(tab)
    return tab


def test_search_finds_the_rows_with_the_largest_cosines(ready: Tab, address: str) -> None:
    assert "40 rows, 3 columns" in ready.text("#rows-about")
    results = search(ready)
    cosines = unit(address, [row[0] for row in ROWS], "document") @ unit(address, [QUERY], "query")[0]
    order = np.argsort(-cosines, kind="stable")[:10]
    assert [result["row"] for result in results] == order.tolist()
    np.testing.assert_allclose([result["score"] for result in results], cosines[order], atol=1e-6)
    first = ready.text("#results li")
    assert ROWS[order[0]][0] in first
    assert f"thing: {ROWS[order[0]][1]}" in first
    marks = ready.run("return [...document.querySelectorAll('#results mark')].map(mark => mark.textContent)")
    assert set(marks) == {"warm"}  # a fifth of the rows has the word "key"
    hits = ready.run("const {state} = await import('./playground/search/view.js'); return [...state.map.canvas.hits]")
    assert hits == order.tolist()
    assert "v1/embeddings" in ready.run("return document.querySelector('#search-code pre').textContent")


def test_the_sentence_nearest_to_the_query_is_marked(tab: Tab, address: str, tmp_path: Path) -> None:
    sentences = ["A warm key. ", "The old door! ", "Is it red?"]
    (tmp_path / "rows.txt").write_text("".join(sentences) + "\none sentence alone\n", encoding="utf-8")
    load(tab, tmp_path / "rows.txt")
    embed(tab)
    search(tab, "old doors")
    cosines = unit(address, sentences, "document") @ unit(address, ["old doors"], "query")[0]
    marked = tab.run("return [...document.querySelectorAll('#results .best')].map((one) => one.textContent)")
    assert marked == [sentences[int(np.argmax(cosines))]]


def test_the_map_colors_selects_and_lists_rows(ready: Tab) -> None:
    ready.fill("#map-color", "1")
    legend = ready.run("return [...document.querySelectorAll('#map .legend button')].map(one => one.textContent)")
    assert legend == sorted(f"{thing} (8)" for thing in THINGS)
    ready.run("document.querySelector('#map canvas').focus()")
    ready.key("Enter", "\r")
    assert "40 rows selected" in ready.wait("document.querySelector('#map').innerText")
    ready.run("document.querySelector('#map .legend button').click(); document.querySelector('#map canvas').focus()")
    ready.key("Enter", "\r")
    assert "32 rows selected" in ready.text("#map")
    ready.key("Escape")
    assert "selected" not in ready.text("#map").replace("selects", "")
    # A click on a point selects it, and lists the rows that are nearest to it in the full space.
    script = "const {state} = await import('./playground/search/view.js'); const {canvas} = state.map;"
    script += "canvas.canvas.scrollIntoView({block: 'center', behavior: 'instant'});"
    script += "const box = canvas.canvas.getBoundingClientRect(), [x, y] = canvas.at(7); return [box.x + x, box.y + y]"
    x, y = ready.run(script)
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        ready.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    ready.wait("document.querySelectorAll('#map .picked li').length === 6")
    assert ready.text("#map .picked li") == ROWS[7][0]
    assert ready.text("#map .tip") == f"{ROWS[7][1]}: {ROWS[7][0]}"


def test_the_lasso_selects_what_is_inside(ready: Tab) -> None:
    ready.run("[...document.querySelectorAll('#map button')].find(one => one.textContent === 'Lasso').click()")
    script = "const {state} = await import('./playground/search/view.js'); const {canvas} = state.map;"
    where = "const box = canvas.canvas.getBoundingClientRect();"
    script += f"canvas.canvas.scrollIntoView({{block: 'center', behavior: 'instant'}}); {where}"
    left, top, right, bottom = ready.run(script + "return [box.left, box.top, box.right, box.bottom]")
    middle = (left + right) / 2
    # The corners of the canvas are round.
    path = [
        (left + 30, top + 2),
        (middle, top + 2),
        (middle, bottom - 2),
        (left + 2, bottom - 30),
        (left + 2, top + 30),
    ]
    for kind, (x, y) in zip(["mousePressed", *["mouseMoved"] * 4, "mouseReleased"], [*path, path[-1]], strict=True):
        ready.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    inside = ready.run(script + f"return canvas.where((x) => x < {middle - left}).length")
    assert 0 < inside < len(ROWS)
    assert f"{inside} row{'s' * (inside > 1)} selected" in ready.text("#map")


def test_the_views_of_the_map_move_and_come_back(ready: Tab) -> None:
    view = "const {state} = await import('./playground/search/view.js'); return state.map.canvas.view"
    ready.run("document.querySelector('#map canvas').focus()")
    ready.key("ArrowRight")
    assert ready.run(view) == {"scale": 1, "x": -60, "y": 0}
    ready.key("+", "+")
    assert ready.run(view)["scale"] == pytest.approx(1.3)
    ready.key("0", "0")
    assert ready.run(view) == {"scale": 1, "x": 0, "y": 0}


def test_neighbors_are_another_layout(ready: Tab) -> None:
    ready.fill("#map-layout", "neighbors")
    ready.wait("document.getElementById('map').innerText.includes('similar vectors')")
    places = "const {state} = await import('./playground/search/view.js'); return [...state.map.canvas.places]"
    found = np.array(ready.run(places)).reshape(-1, 2)
    assert found.shape == (len(ROWS), 2)
    assert np.isfinite(found).all()


def test_pasted_lines_and_json_are_read(tab: Tab, address: str) -> None:
    tab.run("location.hash = 'search'; document.getElementById('paste-box').open = true")
    tab.fill("#paste", "\n".join(json.dumps({"id": number, "body": text}) for number, (text, *_) in enumerate(ROWS)))
    tab.click("#paste-use")
    tab.wait("document.getElementById('rows').checkVisibility()")
    assert tab.run("return document.getElementById('rows-text').selectedOptions[0].textContent") == "body"
    tab.fill("#paste", "one line\nanother line\n\nthe third")
    tab.click("#paste-use")
    tab.wait("document.getElementById('rows-about').textContent.includes('3 rows, 1 column')")


def test_a_parquet_file_is_searched(tab: Tab, tmp_path: Path) -> None:
    columns = {"label": [row[1] for row in ROWS], "text": [row[0] for row in ROWS]}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    load(tab, tmp_path / "rows.parquet")
    embed(tab)
    assert len(search(tab)) == 10


def test_cut_texts_are_counted(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("short\n" + "a text that the model cuts\n" * 3)
    load(tab, tmp_path / "rows.txt")
    embed(tab)
    assert "3 texts longer than the model takes were cut" in tab.text("#embed-status")


@pytest.fixture
def gated(shared_tab: Tab) -> Iterator[tuple[FakeEncoder, Tab]]:
    """Return an encoder whose gate the test opens, and the page of its server."""
    encoder = FakeEncoder()
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        tab = shared_tab
        tab.open(f"{server.addresses.http}/playground")
        tab.wait("document.body.dataset.ready === 'yes'")
        yield encoder, tab
        encoder.gate.set()


def test_embedding_is_cancelled(gated: tuple[FakeEncoder, Tab], tmp_path: Path) -> None:
    encoder, tab = gated
    load(tab, table(tmp_path / "rows.csv"))
    encoder.gate.clear()
    tab.click("#embed")
    tab.wait("document.getElementById('embed-cancel').checkVisibility()")
    tab.click("#embed-cancel")
    tab.wait("document.getElementById('embed-status').textContent === 'Cancelled.'")
    assert not tab.run("return document.getElementById('search-ready').checkVisibility()")
    encoder.gate.set()
    embed(tab)  # and works when it is asked again
    assert len(search(tab)) == 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'text,b\n"not closed,1\n', "A quote is not closed"),
        ("a.jsonl", b'{"text": 1}\nno json\n', "Line 2 is not JSON"),
        ("a.txt", b"\xff\xfe\x00a", "not text in UTF-8"),
        ("a.txt", b"\n\n", "There is no row in it"),
        ("a.parquet", b"PAR1 not parquet PAR1", "damaged"),
    ],
)
def test_files_that_cannot_be_read_are_refused(
    tab: Tab, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    load(tab, tmp_path / name)
    assert message in tab.wait("document.querySelector('#search-error')?.innerText")
    assert not tab.run("return document.getElementById('rows').checkVisibility()")
