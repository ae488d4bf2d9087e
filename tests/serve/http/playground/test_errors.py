"""Errors as people see them: keys, limits, a model that fails, a server that is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime.errors import ProviderError
from fletcher.serve.access.keys_file import add_key
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from .browser import Browser, Tab
from .test_search import load


@contextmanager
def opened(tab: Tab, encoder: FakeEncoder | None = None, **options: Any) -> Iterator[Server]:
    """Open the page of a server with these options."""
    chosen = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=1.0, **options)
    with Server(encoder or FakeEncoder(), chosen) as server:
        tab.open(f"{server.addresses.http}/playground")
        tab.wait("document.body.dataset.ready !== undefined")
        yield server


def shown_after_compare(tab: Tab) -> str:
    """Compare texts, and return the error that appears."""
    tab.run("document.getElementById('compare-error').replaceChildren()")
    tab.click("#compare-form button.main")
    return str(tab.wait("document.getElementById('compare-error').innerText"))


def test_a_key_is_asked_for_and_stays_in_the_tab(browser: Browser, shared_tab: Tab, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    good = add_key(keys, "ann")
    with opened(shared_tab, keys=str(keys)) as server:
        assert "This server needs an API key" in shared_tab.text("#banner")
        assert shared_tab.run("return document.activeElement.id") == "key"
        shared_tab.fill("#key", "wrong")
        shared_tab.click("#key-form button[type=submit]")
        shared_tab.wait("document.getElementById('banner').innerText.includes('does not accept this API key')")
        shared_tab.fill("#key", good)
        shared_tab.click("#key-form button[type=submit]")
        shared_tab.wait("document.body.dataset.ready === 'yes'")
        assert shared_tab.text("#banner") == ""
        assert shared_tab.run("return [sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
        assert shared_tab.run("return document.getElementById('key').value") == ""
        shared_tab.click("#compare-form button.main")
        shared_tab.wait("document.getElementById('compare-result').checkVisibility()")
        code = shared_tab.run("return document.querySelector('#compare-result pre').textContent")
        assert "$FLETCHER_KEY" in code
        assert good not in shared_tab.run("return document.documentElement.outerHTML")
        # A key of the role `user` sees the model, and not the numbers of the server.
        shared_tab.run("location.hash = 'inside'")
        shared_tab.wait("document.getElementById('live').innerText.includes('role monitor or admin')")
        shared_tab.wait("document.getElementById('inside-result').innerText.includes('Apache-2.0')")
        with browser.tab() as other:
            other.open(f"{server.addresses.http}/playground")
            other.wait("document.body.dataset.ready === 'no'")
        shared_tab.click("#key-forget")
        shared_tab.wait("document.getElementById('banner').innerText.includes('needs an API key')")
        assert shared_tab.run("return sessionStorage.length") == 0


def test_too_much_for_one_request(shared_tab: Tab) -> None:
    with opened(shared_tab, max_tokens=20):
        assert "too much for one request" in shown_after_compare(shared_tab).lower()


def test_a_limit_says_the_seconds(shared_tab: Tab) -> None:
    with opened(shared_tab, limit=("tokens=2/s:120",)):
        for _ in range(4):
            shared_tab.run("document.getElementById('compare-error').replaceChildren()")
            shared_tab.click("#compare-form button.main")
            shared_tab.wait("!document.getElementById('compare-status').innerText.includes('Computing')")
        error = shared_tab.wait("document.getElementById('compare-error').innerText")
        assert "You are over a limit of this server. Try again in" in error
        assert " s." in error


def test_a_model_that_fails_is_named_with_the_id_of_the_request(shared_tab: Tab) -> None:
    encoder = FakeEncoder()
    encoder.fails = ProviderError("the device is gone")
    with opened(shared_tab, encoder):
        error = shown_after_compare(shared_tab)
        assert "The server failed (500)" in error
        assert "req-" in error
        encoder.fails = None
        shared_tab.click("#compare-form button.main")
        shared_tab.wait("document.getElementById('compare-result').checkVisibility()")
        assert shared_tab.text("#compare-error") == ""


def test_a_server_that_is_gone(shared_tab: Tab) -> None:
    with opened(shared_tab) as server:
        server.stop()
        assert "The server does not answer" in shown_after_compare(shared_tab)
        shared_tab.run("location.hash = 'inside'")
        shared_tab.wait("document.getElementById('live').innerText.includes('does not answer')")


def test_an_embedding_waits_as_long_as_the_server_asks(shared_tab: Tab, tmp_path: Path) -> None:
    """The page answers 429 with the seconds of `Retry-After`, halves what is too large, and repeats no vector."""
    with opened(shared_tab):
        # The server's own answers to streams are replaced, because its limits let streams wait without an error.
        shared_tab.run(
            """
            const real = window.fetch; window.sizes = [];
            window.fetch = async (address, options) => {
              if (!String(address).endsWith('/v1/embeddings')) return real(address, options);
              const size = JSON.parse(options.body).input.length;
              window.sizes.push(size);
              const refuse = (status, code, headers) =>
                new Response(JSON.stringify({error: {message: 'm', code}}), {status, headers});
              if (window.sizes.length === 1) return refuse(429, 'overloaded', {'retry-after': '1'});
              if (size > 10) return refuse(413, 'request_too_large', {});
              return real(address, options);
            };
            """
        )
        (tmp_path / "rows.txt").write_text("\n".join(f"row {number}" for number in range(24)))
        load(shared_tab, tmp_path / "rows.txt")
        shared_tab.click("#embed")
        shared_tab.wait("document.getElementById('embed-status').innerText.includes('asks to wait: 1 s')")
        shared_tab.wait("document.getElementById('search-ready').checkVisibility()")
        assert shared_tab.run("return window.sizes") == [24, 24, 12, 6, 6, 6, 6]
        assert "24 rows embedded" in shared_tab.text("#embed-status")


@pytest.mark.parametrize(
    ("status", "code", "headers", "words"),
    [
        (429, "overloaded", {"retry-after": "7"}, "too much to do. Try again in 7 s"),
        (429, "rate_limit_exceeded", {"retry-after": "180"}, "over a limit of this server. Try again in 3 min"),
        (503, "stopping", {"retry-after": "5"}, "not ready. Try again in 5 s"),
        (503, "unavailable", {}, "not ready. Try again in a moment"),
        (504, "deadline_exceeded", {}, "did not finish in time"),
        (403, "forbidden", {}, "may not do that"),
        (408, "request_timeout", {}, "too long to arrive"),
        (400, "invalid_value", {}, "refuses this request"),
        (502, None, {}, "The server failed (502)"),
    ],
)
def test_statuses_have_words(modules: Tab, status: int, code: str | None, headers: dict[str, str], words: str) -> None:
    body = json.dumps({"error": {"message": "the reason", "code": code}})
    script = "const {ServerError, explain} = await import('./playground/errors.js');"
    script += (
        f"const {{title, advice}} = explain(new ServerError({status}, {body}, new Headers({json.dumps(headers)})));"
    )
    shown = modules.run(script + "return `${title} ${advice}`")
    assert words in shown
