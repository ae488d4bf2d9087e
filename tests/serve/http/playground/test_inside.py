"""View "Look inside": the model, the proof of its vectors, and the live numbers of the server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import msgspec
import numpy as np
import pytest

from fletcher.model_zoo.card import Accuracy
from fletcher.runtime.canary import Canary
from fletcher.runtime.model_info import VariantInfo
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from .browser import Tab

VARIANTS = (
    VariantInfo(
        name="cpu-fp32",
        target="cpu",
        precision="fp32",
        tolerance=Accuracy(min_cosine=0.9999, max_abs=0.001),
        measured={"cosine_min": 0.9999994, "max_abs": 2.5e-7, "texts": 203.0},
        canary="passed",
        batch_dependent=False,
    ),
    VariantInfo(
        name="cuda-fp16",
        target="cuda",
        precision="fp16",
        tolerance=Accuracy(min_cosine=0.999),
        measured={},
        canary="unchecked",
        batch_dependent=False,
    ),
)


class DamagedEncoder(FakeEncoder):
    """An encoder whose canary has other vectors than it gives."""

    def reference_canary(self) -> Canary:
        texts = ("", "a text")
        vectors = np.eye(2, self.info.dimension, dtype=np.float32)
        return Canary(texts, self.tokenize(texts, "document"), vectors, "by hand")


@pytest.fixture
def inside(shared_tab: Tab, request: pytest.FixtureRequest) -> Iterator[tuple[str, Tab]]:
    """Return the address and the page of a server with two variants, and an encoder that a parameter can replace."""
    encoder = getattr(request, "param", FakeEncoder)()
    encoder.info = msgspec.structs.replace(encoder.info, variants=VARIANTS)
    with Server(encoder, ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        tab = shared_tab
        tab.open(f"{server.addresses.http}/playground#inside")
        tab.wait("document.getElementById('inside-result').innerText.includes('identifier')")
        yield str(server.addresses.http), tab
        assert tab.problems() == []


def test_the_model_its_variants_and_its_space_are_shown(inside: tuple[str, Tab]) -> None:
    url, tab = inside
    model = httpx.get(f"{url}/v1/models").json()["data"][0]
    shown = tab.text("#inside-result")
    for value in (
        model["space"],
        model["digest"],
        model["proof"],
        model["provider"],
        "Apache-2.0",
        "8, 4",
        "16 tokens",
    ):
        assert value in shown
    assert 'query: "query: "' in shown
    rows = tab.run("return [...document.querySelectorAll('#inside-result tbody tr')].map(row => row.innerText)")
    assert rows[0].split("\t") == [
        "cpu-fp32 runs",
        "passed",
        "cosine ≥ 0.9999, difference ≤ 0.001",
        "0.9999994",
        "2.5e-7",
        "203",
    ]
    assert rows[1].split("\t") == ["cuda-fp16", "unchecked", "cosine ≥ 0.999", "–", "–", "–"]


@pytest.mark.parametrize(
    ("inside", "result"),
    [
        (FakeEncoder, "Passed: 2 texts, smallest cosine 1.0000000, largest difference of an element 0.0e+0."),
        (DamagedEncoder, "Failed: 2 texts"),
    ],
    indirect=["inside"],
)
def test_the_canary_is_checked_now(inside: tuple[str, Tab], result: str) -> None:
    _, tab = inside
    tab.run(
        "[...document.querySelectorAll('#inside-result button')].find(b => b.textContent.includes('canary')).click()"
    )
    tab.wait("/Passed|Failed/.test(document.getElementById('inside-result').innerText)")
    assert result in tab.text("#inside-result")


def test_the_live_numbers_come_from_the_metrics(inside: tuple[str, Tab]) -> None:
    url, tab = inside
    # The second look, two seconds after the first, has the requests since.
    tab.wait("document.getElementById('live').innerText.includes('second look')")
    for _ in range(3):
        httpx.post(f"{url}/v1/embeddings", json={"model": "fake-model", "input": ["one", "two"]}).raise_for_status()
    tab.wait("document.querySelectorAll('#live figure').length === 3")
    rows = tab.run("return [...document.querySelectorAll('#live tbody tr')].map(row => row.innerText.split('\\t'))")
    assert [row[0] for row in rows] == ["tokenize", "queue", "compute", "output"]
    assert all(float(row[1]) > 0 for row in rows)
    assert all(row[2].endswith(" ms") for row in rows)
    tab.run("location.hash = 'compare'")
    tab.wait("document.getElementById('view-compare').checkVisibility()")
    script = "const {state} = await import('./playground/inside/view.js'); return state.live.aborting.signal.aborted"
    assert tab.run(script)  # what is not on the screen is not asked for
