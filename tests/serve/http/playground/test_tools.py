"""Checks of the page by tools of npm: axe for accessibility, TypeScript for types. Both are installed when they run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from .browser import Browser, Tab
from .test_search import embed, load, search, table

pytestmark = pytest.mark.slow

TOOLS = Path(__file__).parent / "tools"
PAGE = Path(__file__).parents[4] / "serve" / "http" / "playground" / "page"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the installed packages."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json", "tsconfig.json"):
        shutil.copy(TOOLS / name, folder)
    subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True, timeout=240)
    return folder


def test_the_types_of_the_modules_fit(packages: Path) -> None:
    settings = json.loads((packages / "tsconfig.json").read_text())
    settings["include"] = [f"{PAGE}/**/*.js"]
    (packages / "tsconfig.json").write_text(json.dumps(settings))
    command = [str(packages / "node_modules" / ".bin" / "tsc"), "-p", str(packages)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stdout


@pytest.fixture(scope="module", params=["light", "dark", "phone"])
def views(request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Return the page with content in all views."""
    phone, dark = request.param == "phone", request.param == "dark"
    width = 390 if phone else 1280
    options = ServerOptions(http="127.0.0.1:0", flight="off")
    with Server(FakeEncoder(), options) as server, browser.tab(width, 844, phone=phone, dark=dark) as tab:
        tab.call("Page.setBypassCSP", enabled=True)  # the checker is a script that the page does not have
        tab.open(f"{server.addresses.http}/playground")
        tab.wait("document.body.dataset.ready === 'yes'")
        tab.fill("#compare-texts", "one text\nanother text\na text that is longer than the model takes")
        tab.fill("#compare-other", "fake-model")
        tab.click("#compare-form button.main")
        tab.wait("document.querySelectorAll('#compare-result .texts').length > 0")
        tab.wait("!document.getElementById('compare-result').innerText.includes('Loading …')")
        load(tab, table(tmp_path_factory.mktemp("rows") / "rows.csv"))
        embed(tab)
        search(tab)
        tab.fill("#map-color", "1")
        tab.run("location.hash = 'inside'")
        tab.wait("document.querySelectorAll('#live figure').length === 3")
        tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        yield tab


@pytest.mark.parametrize("view", ["compare", "search", "inside"])
def test_axe_finds_nothing_serious(views: Tab, packages: Path, view: str) -> None:
    views.run(f"location.hash = '{view}'")
    views.wait(f"document.getElementById('view-{view}').checkVisibility()")
    views.wait("document.getAnimations().length === 0")  # a color on its way to another one has no contrast to judge
    views.run((packages / "node_modules" / "axe-core" / "axe.min.js").read_text() + "\nwindow.axe = axe;")
    found: dict[str, Any] = views.run(
        "const {violations, passes} = await axe.run(document); return {passed: passes.length, violations: violations.map("
        "(one) => [one.impact, one.id, one.nodes.map((node) => node.html + ' ' + node.failureSummary).slice(0, 3)])}"
    )
    assert found["passed"] > 20
    assert [one for one in found["violations"] if one[0] in ("serious", "critical")] == []


def test_nothing_is_wider_than_the_screen(views: Tab) -> None:
    for view in ("compare", "search", "inside"):
        views.run(f"location.hash = '{view}'")
        views.wait(f"document.getElementById('view-{view}').checkVisibility()")
        assert views.run("return document.documentElement.scrollWidth <= innerWidth"), view


def test_errors_pass_axe(browser: Browser, packages: Path) -> None:
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server, browser.tab() as tab:
        tab.call("Page.setBypassCSP", enabled=True)
        tab.open(f"{server.addresses.http}/playground")
        tab.wait("document.body.dataset.ready === 'yes'")
        tab.fill("#compare-texts", "one")
        tab.click("#compare-form button.main")
        tab.wait("document.querySelector('#compare-error p') !== null")
        tab.run((packages / "node_modules" / "axe-core" / "axe.min.js").read_text() + "\nwindow.axe = axe;")
        found = tab.run("return (await axe.run(document)).violations.map((one) => [one.impact, one.id])")
        assert [one for one in found if one[0] in ("serious", "critical")] == []
