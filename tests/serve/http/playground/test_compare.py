"""View "Compare" in a real browser: its numbers are those of the API's vectors."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from fletcher.runtime.artifact.calibration import Calibration
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from .browser import Tab

TEXTS = ["warm bread", "cold bread", "a key", "größer als 𝄞"]
QUERIES = ["bread", "locks"]

#: A text of 20 letters: the fake model sees 14 of them, between two special tokens.
LONG = "abcdefghijklmnopqrst"

Floats = NDArray[np.float64]


def ask(address: str, texts: list[str], **fields: Any) -> Any:
    """Return the vectors of the API, or for other types than float32 its items."""
    body = {"model": "fake-model", "input": texts, "encoding_format": "float", **fields}
    answer = httpx.post(f"{address}/v1/embeddings", json=body, verify=False).raise_for_status().json()
    if "dtype" in fields:
        return [item["embedding"] for item in answer["data"]]
    return np.array([item["embedding"] for item in answer["data"]], np.float64)


def cosines(rows: Floats, columns: Floats) -> Floats:
    product: Floats = rows @ columns.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(columns, axis=1))
    return product


def compare(tab: Tab, texts: list[str], queries: list[str] | None = None) -> None:
    """Fill in the form, and wait for the whole result."""
    tab.fill("#compare-texts", "\n".join(texts))
    tab.fill("#compare-queries", "\n".join(queries or []))
    again(tab, "document.querySelector('#compare-form button.main').click()")


def again(tab: Tab, action: str) -> None:
    """Run a script that lets the view compute, and wait for the whole result."""
    state = "(await import('./playground/compare/view.js')).state.done"
    before = tab.run(f"return {state}")
    tab.run(action)
    tab.wait(f"{state} > {before}")
    tab.wait("!document.getElementById('compare-result').innerText.includes('Loading …')")


def shown(tab: Tab, table: int = 0) -> Floats:
    """Return the numbers of a table of similarities."""
    script = "return [...document.querySelectorAll('.matrix')].map(table => [...table.tBodies[0].rows].map("
    script += "row => [...row.cells].slice(1).map(cell => Number(cell.textContent))))"
    return np.array(tab.run(script)[table])


def vectors(tab: Tab, part: str = "texts") -> Floats:
    """Return the vectors that the page has."""
    script = (
        f"const {{state}} = await import('./playground/compare/view.js'); return state.run.first.{part}.vectors.map("
    )
    return np.array(tab.run(script + "vector => Array.from(vector))"))


def test_the_vectors_are_those_of_the_api(tab: Tab, address: str) -> None:
    compare(tab, TEXTS)
    expected = ask(address, TEXTS)
    np.testing.assert_array_equal(vectors(tab), expected)
    np.testing.assert_allclose(shown(tab), cosines(expected, expected), atol=5e-4)
    pairs = tab.text("#compare-result .pairs")
    upper = np.triu(cosines(expected, expected), 1)
    first = np.unravel_index(np.argmax(upper), upper.shape)
    assert pairs.splitlines()[0] == f"{upper[first]:.3f}{TEXTS[first[0]]} and {TEXTS[first[1]]}"
    assert f"{len(TEXTS)} texts" in tab.text("#compare-status")


def test_queries_are_rows_and_have_their_own_prompt(tab: Tab, address: str) -> None:
    tab.wait("document.getElementById('compare-query-type-prompt').innerText")
    assert tab.text("#compare-query-type-prompt") == 'prompt: "query: "'
    assert tab.text("#compare-type-prompt") == "no prompt"
    compare(tab, TEXTS, QUERIES)
    queries, texts = ask(address, QUERIES, input_type="query"), ask(address, TEXTS, input_type="document")
    np.testing.assert_array_equal(vectors(tab, "queries"), queries)
    np.testing.assert_allclose(shown(tab), cosines(queries, texts), atol=5e-4)
    again(
        tab,
        "const s = document.getElementById('compare-query-type'); s.value = 'raw'; s.dispatchEvent(new Event('change'))",
    )
    np.testing.assert_array_equal(vectors(tab, "queries"), ask(address, QUERIES, input_type="raw"))


def test_the_slider_asks_for_the_models_lengths(tab: Tab, address: str) -> None:
    compare(tab, TEXTS)
    again(tab, "const s = document.getElementById('compare-size'); s.value = 0; s.dispatchEvent(new Event('input'))")
    assert tab.text("#compare-size-shown") == "4 of 8"
    expected = ask(address, TEXTS, dimensions=4)
    np.testing.assert_array_equal(vectors(tab), expected)
    np.testing.assert_allclose(shown(tab), cosines(expected, expected), atol=5e-4)


def test_the_cut_is_shown_in_the_text(tab: Tab) -> None:
    compare(tab, [LONG, "short"], [LONG])
    # The prompt "query: " takes seven of the fourteen places.
    query, text = (tab.text(f"#compare-result .texts:nth-of-type({place}) .tokens") for place in (1, 2))
    assert query == "query: abcdefgcut here, 13 tokens not seenhijklmnopqrst"
    assert text == "abcdefghijklmncut here, 6 tokens not seenopqrst"
    assert tab.text("#compare-result del") == "hijklmnopqrst"
    assert tab.run("return document.querySelectorAll('#compare-result .token.prompt').length") == len("query: ")
    assert "2 texts are longer" in tab.text("#compare-result")
    assert "16 tokens seen, 6 tokens cut" in tab.text("#compare-result")


@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_that_share_a_character_and_places_beyond_the_first_plane(modules: Tab, side: str) -> None:
    """Byte-level tokenizers divide one character into several tokens; places count characters, not UTF-16."""
    places = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 4), (5, 6)]
    tokens = [{"id": 7, "text": "", "special": False, "start": start, "stop": stop} for start, stop in places]
    tokens = [{"id": 0, "text": "<s>", "special": True, "start": None, "stop": None}, *tokens]
    cut = json.dumps({"seen": 5, "dropped": 2, "prompt": "", "side": side})
    text, lost = modules.run(
        "const {tokenView} = await import('./playground/compare/tokens.js');"
        f"const item = tokenView('a𝄞bc d', {json.dumps(tokens)}, {cut});"
        "return [item.querySelector('.tokens').textContent, item.querySelector('del').textContent]"
    )
    if side == "right":
        assert (text, lost) == ("<s>a𝄞··cut here, 2 tokens not seenbc d", "bc d")
    else:
        assert (text, lost) == ("<s>a𝄞cut here, 2 tokens not seen𝄞·bc d", "a𝄞")


def test_storage_types_are_the_servers_encodings(tab: Tab, address: str) -> None:
    compare(tab, TEXTS)
    full = cosines(ask(address, TEXTS), ask(address, TEXTS))
    pairs = np.triu_indices(len(TEXTS), 1)
    bits = np.array(
        np.unpackbits(np.array(ask(address, TEXTS, dtype="ubinary"), np.uint8), axis=1) * 2.0 - 1, np.float64
    )
    codes = np.array(ask(address, TEXTS, dtype="int8"), np.float64)
    rows = tab.run(
        "return [...[...document.querySelectorAll('#compare-result table')].at(-1).tBodies[0].rows].map("
        "row => [...row.cells].map(cell => cell.textContent))"
    )
    assert [row[:2] for row in rows] == [["float32", "32"], ["float16", "16"], ["int8", "12"], ["binary", "1"]]
    for row, values in ((rows[2], codes), (rows[3], bits)):
        differences = np.abs(cosines(values, values) - full)[pairs]
        assert float(row[3]) == pytest.approx(differences.max(), rel=5e-3)
        assert float(row[4]) == pytest.approx(differences.mean(), rel=5e-3)


def test_a_second_model_is_compared_by_rank_correlation(tab: Tab) -> None:
    generator = np.random.default_rng(0)
    first, second = np.round(generator.normal(size=(2, 6, 5)), 1)  # rounded, so that some are equal
    script = "const {difference} = await import('./playground/compare/beside.js');"
    found = tab.run(f"{script} return difference({first.tolist()}, {second.tolist()}, false)")
    assert found["correlation"] == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    assert found["largest"] == pytest.approx(np.abs(first - second).max())
    assert found["same"] == int((first.argmax(1) == second.argmax(1)).sum())
    tab.run("document.getElementById('compare-other').value = 'fake-model'")
    compare(tab, TEXTS)
    assert "finds the same nearest text as fake-model for 4 of 4 texts" in tab.text("#compare-result")
    assert not shown(tab, 2).any()  # the table of differences of a model from itself


FITTED: dict[str, Any] = {
    "measure": "cosine",
    "input_type": "document",
    "pairs": 9,
    "positive": 0.5,
    "error": 0.02,
    "variant": "cpu-fp32",
}
CALIBRATIONS = [
    Calibration(method="logistic", slope=9.0, intercept=-4.0, **FITTED),
    Calibration(method="isotonic", values=(-0.5, 0.1, 0.7), probabilities=(0.1, 0.2, 0.9), **FITTED),
]


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=["logistic", "isotonic"])
def test_probabilities_are_those_of_the_servers_calibration(shared_tab: Tab, calibration: Calibration) -> None:
    encoder = FakeEncoder()
    encoder.info = msgspec.structs.replace(encoder.info, calibration=calibration)
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        url, tab = str(server.addresses.http), shared_tab
        tab.open(f"{url}/playground")
        tab.wait("document.body.dataset.ready === 'yes'")
        compare(tab, TEXTS)
        inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
        body = {"inputs": inputs, "calibrated": True, "parameters": {"input_type": "document"}}
        expected = httpx.post(f"{url}/similarity", json=body).raise_for_status().json()
        np.testing.assert_allclose(shown(tab, 1)[0][1:], expected, atol=5e-4)
        assert "% to belong together" in tab.text("#compare-result .pairs")
        script = "const {probability} = await import('./playground/compare/similarity.js');"
        values = [-1.0, -0.5, -0.2, 0.1, 0.69, 0.7, 1.0]
        found = tab.run(
            f"{script} return {values}.map(value => probability({msgspec.json.encode(calibration).decode()}, value))"
        )
        np.testing.assert_allclose(found, calibration.apply(values), rtol=1e-12)
        compare(tab, TEXTS, QUERIES)  # queries have another input type than the pairs of the calibration
        assert "Probabilities need the input type document" in tab.text("#compare-result")


def test_the_code_gives_the_vectors_on_the_screen(tab: Tab, address: str) -> None:
    texts = ['it\'s "quoted" \\ $HOME', *TEXTS]
    compare(tab, texts)
    expected = ask(address, texts)
    codes = tab.run(
        "const {codeOf} = await import('./playground/code.js'); const {state} = await import('./playground/compare/view.js');"
        "return codeOf(state.run.first.texts.request)"
    )
    assert tab.run("document.querySelector('details.code').open = true; return true")
    assert tab.text("#compare-result pre") == codes["curl"]
    printed: list[Any] = []
    exec(codes["Python"], {"print": printed.append})
    script = codes["JavaScript"].replace("console.log(await answer.json())", "return await answer.json()")
    answers = [printed[0], tab.run(script)]
    if shutil.which("curl"):
        answers.append(
            json.loads(subprocess.run(["bash", "-c", codes["curl"]], capture_output=True, check=True).stdout)
        )
    for answer in answers:
        np.testing.assert_array_equal([item["embedding"] for item in answer["data"]], expected)


def test_what_cannot_be_compared_is_said(tab: Tab) -> None:
    tab.fill("#compare-texts", "one alone")
    tab.click("#compare-form button.main")
    assert "at least two texts" in tab.wait("document.getElementById('compare-error').innerText")
    tab.fill("#compare-texts", "\n".join(map(str, range(65))))
    tab.click("#compare-form button.main")
    tab.wait("document.getElementById('compare-error').innerText.includes('up to 64')")
    assert not tab.requests()[-1].endswith("/v1/embeddings")


def test_the_saved_vectors_are_those_on_the_screen(tab: Tab, address: str) -> None:
    compare(tab, TEXTS, QUERIES)
    tab.run("URL.createObjectURL = (blob) => { window.saved = blob.text(); return '#'; }")
    tab.run(
        "[...document.querySelectorAll('#compare-result button')].find(b => b.textContent.includes('Save')).click()"
    )
    saved = json.loads(tab.run("return await window.saved"))
    np.testing.assert_array_equal(saved["vectors"], ask(address, TEXTS))
    np.testing.assert_array_equal(saved["query_vectors"], ask(address, QUERIES, input_type="query"))
    assert saved["space"].startswith("fs1-")
    assert math.isclose(len(saved["vectors"][0]), saved["dimensions"])
