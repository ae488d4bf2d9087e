"""Fixtures: one browser for all tests, and a server whose vectors are known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from .browser import CHROMIUM, Browser, Tab


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a server with `FakeEncoder`."""
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=5)) as server:
        yield str(server.addresses.http)


@pytest.fixture(scope="session")
def shared_tab(browser: Browser) -> Iterator[Tab]:
    with browser.tab() as tab:
        yield tab


@pytest.fixture
def modules(shared_tab: Tab, address: str) -> Tab:
    """Return the page, as earlier tests left it, for tests of its modules alone."""
    if not shared_tab.run("return location.href").startswith(f"{address}/playground"):
        shared_tab.open(f"{address}/playground")
    return shared_tab


@pytest.fixture
def tab(shared_tab: Tab, address: str) -> Iterator[Tab]:
    """Return the page of that server, loaded anew, which has its models. Its scripts must not fail."""
    shared_tab.open(f"{address}/playground")
    shared_tab.wait("document.body.dataset.ready === 'yes'")
    yield shared_tab
    assert shared_tab.problems() == []
