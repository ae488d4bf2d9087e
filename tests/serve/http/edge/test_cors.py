"""Calls from pages of websites: CORS as browsers ask for it, the admin API, and a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from fletcher.runtime.errors import OptionError
from fletcher.serve.http.edge.cors import ADMIN_PATHS
from fletcher.serve.http.routes import http_routes
from fletcher.serve.models.changes import AdminRules
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder
from ..test_docs import CHROMIUM, _dump

ORIGIN = "https://example.org"
ASK = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
BODY = {"model": "fake-model", "input": "ab"}


@contextmanager
def client(*origins: str, **options: Any) -> Iterator[httpx.Client]:
    chosen = ServerOptions(http="127.0.0.1:0", flight="off", cors_allow_origin=origins, admin="on", **options)
    with Server(FakeEncoder(), chosen) as server, httpx.Client(base_url=server.addresses.http or "") as http:
        yield http


def permissions(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_without_the_option_no_page_may_read_an_answer() -> None:
    with client() as http:
        assert http.options("/v1/embeddings", headers=ASK).status_code == 405
        answer = http.post("/v1/embeddings", json=BODY, headers={"origin": ORIGIN})
        assert answer.status_code == 403  # without keys, a page of another site may not even send it
        assert permissions(answer) == {}


def test_an_origin_that_is_named_may_ask_and_read() -> None:
    with client("https://other.example", ORIGIN) as http:
        preflight = http.options("/v1/embeddings", headers=ASK)
        assert (preflight.status_code, preflight.content) == (204, b"")
        assert permissions(preflight) == {
            "access-control-allow-origin": ORIGIN,
            "access-control-allow-methods": "GET, HEAD, POST",
            "access-control-allow-headers": "authorization,content-type",
            "access-control-max-age": "600",
        }
        assert preflight.headers["vary"] == "origin"
        answer = http.post("/v1/embeddings", json=BODY, headers={"origin": ORIGIN})
        assert answer.status_code == 200
        assert permissions(answer) == {"access-control-allow-origin": ORIGIN, "access-control-expose-headers": "*"}
        assert answer.headers["vary"] == "origin"
        refused = http.post("/v1/embeddings", json={}, headers={"origin": ORIGIN})  # a page can read errors, too
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, ORIGIN)


@pytest.mark.parametrize(
    "origin", ["https://example.com", "http://example.org", "https://example.org.evil.example", "null"]
)
def test_other_origins_may_not(origin: str) -> None:
    with client(ORIGIN) as http:
        assert permissions(http.options("/v1/embeddings", headers=ASK | {"origin": origin})) == {}
        assert permissions(http.post("/v1/embeddings", json=BODY, headers={"origin": origin})) == {}


def test_every_origin_can_be_allowed_and_keys_are_still_needed(tmp_path: Path) -> None:
    from fletcher.serve.access.keys_file import add_key

    keys = tmp_path / "keys.json"
    key = add_key(keys, "ann")
    with client("*", keys=str(keys)) as http:
        assert http.options("/v1/embeddings", headers=ASK).headers["access-control-allow-origin"] == "*"
        assert http.post("/v1/embeddings", json=BODY, headers={"origin": ORIGIN}).status_code == 401
        headers = {"origin": ORIGIN, "authorization": f"Bearer {key}"}
        answer = http.post("/v1/embeddings", json=BODY, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert "access-control-allow-credentials" not in answer.headers


def test_a_page_of_the_internet_may_ask_a_private_address_if_it_is_allowed() -> None:
    with client(ORIGIN) as http:
        answer = http.options("/v1/embeddings", headers=ASK | {"access-control-request-private-network": "true"})
        assert answer.headers["access-control-allow-private-network"] == "true"


def test_the_admin_api_allows_no_page() -> None:
    paths = {route.path for route in http_routes(None, AdminRules("on")) if route.access == "admin"}
    assert paths and all(path.startswith(ADMIN_PATHS) for path in paths)
    with client("*") as http:
        for path in ("/admin/models", "/admin/models/fake-model"):
            assert permissions(http.options(path, headers=ASK)) == {}
            answer = http.get(path, headers={"origin": ORIGIN})
            assert permissions(answer) == {}
        assert http.get("/admin/models", headers={"origin": ORIGIN}).status_code == 403
        assert http.get("/admin/models").status_code == 200


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/", "https://example.org/x", "https://*.example.org", ""]
)
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(OptionError, match="cors_allow_origin is"):
        ServerOptions(cors_allow_origin=(origin,))


PAGE = """<!doctype html><p id="state">waiting</p><script>
fetch("SERVER/v1/embeddings", {method: "POST", headers: {"content-type": "application/json", "x-priority": "bulk"},
  body: JSON.stringify({model: "fake-model", input: "ab"})})
  .then(async (answer) => { document.getElementById("state").textContent =
    `read ${(await answer.json()).data.length} with ${answer.headers.get("x-request-id") ? "an id" : "no id"}`; })
  .catch((error) => { document.getElementById("state").textContent = `refused: ${error.name}`; });
</script>"""


@contextmanager
def website(page: str) -> Iterator[str]:
    """Serve a page on a port of its own, which is an origin of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: Any) -> None:
            """Write no log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("origins", "state"), [(("*",), "read 1 with an id"), ((), "refused: TypeError")])
def test_a_browser_reads_answers_if_its_page_is_allowed(origins: tuple[str, ...], state: str, tmp_path: Path) -> None:
    with client(*origins) as http, website(PAGE.replace("SERVER", str(http.base_url).rstrip("/"))) as origin:
        assert f'<p id="state">{state}</p>' in _dump(f"{origin}/", tmp_path)
