"""`/playground` as it is served: its files, their headers, the option that turns it off, prefixes and keys."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import httpx
import pytest

from fletcher.serve.http.playground.assets import TYPES, read_assets
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from .browser import Browser, Tab

PAGE = Path(__file__).parents[4] / "serve" / "http" / "playground" / "page"

#: The issue allows 1.5 MB; this is what hand-written modules need.
MOST_BYTES = 120_000

#: Names of SVG elements, which no browser asks for.
NAMESPACE = "http://www.w3.org/2000/svg"


def test_every_file_is_served_with_its_type_and_the_policy(address: str) -> None:
    names = [path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()]
    assert sorted(names) == sorted(read_assets())
    with httpx.Client(base_url=address) as client:
        answers = {name: client.get("/playground" if name == "index.html" else f"/playground/{name}") for name in names}
    for name, answer in answers.items():
        assert answer.status_code == 200
        assert answer.content == (PAGE / name).read_bytes()
        assert answer.headers["content-type"].encode() == TYPES[name.rpartition(".")[2]]
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_the_files_name_no_other_host_and_have_no_inline_code() -> None:
    for name, asset in read_assets().items():
        text = asset.body.decode().replace(NAMESPACE, "")
        assert not re.search(r"(?:https?:)?//[a-z0-9]+\.", text), name
        assert "innerHTML" not in text
        assert "eval(" not in text
    page = read_assets()["index.html"].body.decode()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page)
    assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="playground/app.js">']


def test_every_import_is_a_file_of_the_page() -> None:
    for name, asset in read_assets().items():
        for target in re.findall(r'^import .*?from "([^"]+)"', asset.body.decode(), re.MULTILINE):
            assert (PAGE / name).parent.joinpath(target).resolve().is_relative_to(PAGE)
            assert (PAGE / name).parent.joinpath(target).is_file(), (name, target)


def test_the_page_is_small() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, asset in read_assets().items():
            archive.writestr(name, asset.body)
    assert len(packed.getvalue()) < MOST_BYTES


def test_other_paths_and_methods_are_refused(address: str) -> None:
    with httpx.Client(base_url=address) as client:
        for path in ("nothing.js", "../docs.html", "%2e%2e/assets.py", "assets.py", "compare"):
            assert client.get(f"/playground/{path}").status_code == 404
        assert client.post("/playground", json={}).status_code == 405
        length = client.head("/playground").headers["content-length"]
        assert length == str(len(read_assets()["index.html"].body))
        # The addresses in the page are relative to the path without a slash at its end.
        assert client.get("/playground/", follow_redirects=True).url.path == "/playground"
        assert "/playground" not in client.get("/openapi.json").json()["paths"]


def test_the_option_turns_it_off() -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", playground=False)
    with Server(FakeEncoder(), options) as server:
        assert httpx.get(f"{server.addresses.http}/playground").status_code == 404
        assert httpx.get(f"{server.addresses.http}/playground/app.js").status_code == 404
        assert httpx.get(f"{server.addresses.http}/docs").status_code == 200


@pytest.mark.parametrize("prefix", ["", "/fletcher"])
def test_it_works_below_a_prefix_and_asks_no_other_server(shared_tab: Tab, prefix: str) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", root_path=prefix)
    with Server(FakeEncoder(), options) as server:
        tab = shared_tab
        tab.open(f"{server.addresses.http}{prefix}/playground/#search")
        tab.wait("document.body.dataset.ready === 'yes'")
        assert tab.run("return document.getElementById('view-search').checkVisibility()")
        tab.run("const {call} = await import('./playground/work/desk.js'); await call('begin', {rows: 1, size: 2})")
        requests = tab.requests()
        assert f"{server.addresses.http}{prefix}/playground/work/worker.js" in requests
        assert f"{server.addresses.http}{prefix}/v1/models" in requests
        assert all(request.startswith((f"{server.addresses.http}{prefix}/", "data:")) for request in requests)
        assert tab.problems() == []


def test_keys_of_the_keyboard_reach_the_views(tab: Tab) -> None:
    tab.run("document.body.focus()")
    reached = []
    for _ in range(6):
        tab.key("Tab")
        reached.append(tab.run("return document.activeElement.dataset.view ?? document.activeElement.className"))
    assert reached[:4] == ["skip", "compare", "search", "inside"]
    tab.run("document.querySelector('[data-view=inside]').focus()")
    tab.key("Enter", "\r")
    tab.wait("document.getElementById('view-inside').checkVisibility()")
    assert tab.run("return document.querySelector('[aria-current=page]').dataset.view") == "inside"


@pytest.mark.slow
def test_the_first_paint_comes_within_a_second(browser: Browser, address: str) -> None:
    times = []
    for _ in range(3):
        with browser.tab() as tab:
            tab.open(f"{address}/playground")
            times.append(tab.wait("performance.getEntriesByName('first-contentful-paint')[0]?.startTime"))
    assert min(times) < 1000, times
