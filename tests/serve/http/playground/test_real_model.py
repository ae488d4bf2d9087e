"""The page with MiniLM: a file of 10,000 rows, a reranker, front processes, and the pictures of the documents."""

from __future__ import annotations

import ast
import csv
import io
import logging
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from fletcher.convert.export.export import export
from fletcher.runtime.corpora import corpus
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ....convert.heads import test_classification
from .browser import Browser, Tab
from .test_compare import compare, vectors
from .test_search import embed, load, search

pytestmark = pytest.mark.slow

IMAGES = Path(__file__).parents[4] / "docs" / "howto" / "images"
MOST_IMAGE_BYTES = 150_000

ROWS, SECONDS = 10_000, 30.0

#: Modules of Python's library whose docstrings the pictures search.
MODULES = (
    "argparse",
    "asyncio",
    "csv",
    "datetime",
    "decimal",
    "email",
    "http",
    "json",
    "logging",
    "pathlib",
    "tkinter",
)


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "fronts"])
def url(
    request: pytest.FixtureRequest, minilm_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("reranker")
    export(str(test_classification.make(folder / "checkpoint")), folder / "artifact")
    paths = {"minilm": minilm_artifact, "reranker": folder / "artifact"}
    specs = [ModelSpec(path=str(path), name=name, provider="mlas", workers=1) for name, path in paths.items()]
    options = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=10, fronts=request.param)
    with Supervisor(specs, options) if request.param else Server(specs, options) as server:
        yield str(server.addresses.http)


@pytest.fixture
def minilm(browser: Browser, url: str) -> Iterator[Tab]:
    with browser.tab(1100, 820) as tab:
        tab.open(f"{url}/playground")
        tab.wait("document.body.dataset.ready === 'yes'")
        yield tab
        assert tab.problems() == []


def cpu_seconds() -> float:
    """Return the processor time of this process, of the server's processes and of the browser until now."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes if process.is_running())


def test_a_file_of_10000_rows_is_searchable_within_30_seconds(minilm: Tab, url: str, tmp_path: Path) -> None:
    texts = corpus("sentences", ROWS)
    (tmp_path / "rows.txt").write_text("\n".join(texts), encoding="utf-8")
    before = cpu_seconds()
    load(minilm, tmp_path / "rows.txt")
    minilm.click("#embed")
    minilm.wait("document.getElementById('search-ready').checkVisibility()", 540)
    results = search(minilm, "read a file line by line")
    spent = cpu_seconds() - before
    logging.getLogger(__name__).warning("%d rows: %.1f s of processor time until the first results", ROWS, spent)
    body = {"model": "minilm", "input": [texts[result["row"]] for result in results]}
    found = np.array([item["embedding"] for item in httpx.post(f"{url}/v1/embeddings", json=body).json()["data"]])
    query = {"model": "minilm", "input": "read a file line by line", "input_type": "query"}
    vector = np.array(httpx.post(f"{url}/v1/embeddings", json=query).json()["data"][0]["embedding"])
    np.testing.assert_allclose([result["score"] for result in results], found @ vector, atol=1e-4)
    assert spent < SECONDS


def test_typed_texts_give_the_vectors_of_the_api(minilm: Tab, url: str) -> None:
    texts = ["A man is eating food.", "größer als 𝄞", "long " * 400]
    compare(minilm, texts)
    answer = httpx.post(f"{url}/v1/embeddings", json={"model": "minilm", "input": [text.strip() for text in texts]})
    expected = np.array([item["embedding"] for item in answer.json()["data"]])
    np.testing.assert_allclose(vectors(minilm), expected, atol=1e-6)
    assert "1 text is longer" in minilm.text("#compare-result")


def test_the_reranker_orders_the_results(minilm: Tab, url: str, tmp_path: Path) -> None:
    texts = corpus("sentences", 60)
    (tmp_path / "rows.txt").write_text("\n".join(texts), encoding="utf-8")
    load(minilm, tmp_path / "rows.txt")
    embed(minilm)
    minilm.fill("#rerank", "reranker")
    results = search(minilm, "w1 w2 w3")
    shown = [texts[result["row"]] for result in results]
    body = {"model": "reranker", "query": "w1 w2 w3", "documents": texts}
    ranked = httpx.post(f"{url}/v1/rerank", json=body).json()["results"][:10]
    np.testing.assert_allclose(
        [result["relevance"] for result in results], [one["relevance_score"] for one in ranked], atol=1e-5
    )
    assert len(shown) == 10
    assert "by the reranker" in minilm.text("#results")


# Pictures -------------------------------------------------------------------------------------------------------------


def docstrings(path: Path) -> Path:
    """Write the first paragraphs of docstrings of Python's library as csv, with their modules."""
    rows = []
    library = Path(sysconfig.get_path("stdlib"))
    for module in MODULES:
        for file in [library / f"{module}.py", *sorted((library / module).glob("*.py"))]:
            for node in ast.walk(ast.parse(file.read_bytes())) if file.is_file() else ():
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and len(text := ast.get_docstring(node) or "") > 30:
                    rows.append((module, node.name, " ".join(text.split("\n\n")[0].split())))
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("module", "name", "text"), *rows])
    return path


def picture(tab: Tab, name: str) -> None:
    """Write what is on the screen into the documents, with few colors."""
    file = io.BytesIO(tab.screenshot())
    Image.open(file).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
    assert (IMAGES / f"{name}.png").stat().st_size < MOST_IMAGE_BYTES


def test_the_pictures_of_the_documents(browser: Browser, minilm: Tab, url: str, tmp_path: Path) -> None:
    compare(minilm, ["A man is eating food.", "A man eats a meal.", "Someone is having lunch.", "It rains."])
    minilm.run("document.querySelector('#compare-form').scrollIntoView()")
    picture(minilm, "playground-compare")
    load(minilm, docstrings(tmp_path / "docstrings.csv"))
    embed(minilm)
    minilm.fill("#map-color", "0")
    minilm.fill("#map-layout", "neighbors")
    minilm.wait("document.getElementById('map').innerText.includes('similar vectors')", 240)
    search(minilm, "parse a date from text")
    minilm.run("document.querySelector('#search-form').scrollIntoView()")
    minilm.wait("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(() => go(true))))")
    picture(minilm, "playground-search")
    with browser.tab(1100, 820, dark=True) as dark:
        dark.open(f"{url}/playground#inside")
        dark.wait("document.querySelectorAll('#live figure').length === 3")
        dark.run("document.querySelectorAll('#inside-result section')[1].scrollIntoView()")
        picture(dark, "playground-inside")
    with browser.tab(390, 780, phone=True) as phone:
        phone.open(f"{url}/playground")
        phone.wait("document.body.dataset.ready === 'yes'")
        compare(phone, ["A man is eating food.", "A man eats a meal.", "It rains."])
        phone.run("document.querySelector('#compare-result').scrollIntoView()")
        picture(phone, "playground-phone")
