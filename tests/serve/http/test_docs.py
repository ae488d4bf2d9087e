"""`/docs` in a real browser that can reach only the server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from fletcher.serve.http.docs import docs_page
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

#: Script that fills in the form of the page and submits it, as a user does.
DRIVER = """
<script>
addEventListener("load", async () => {
  while (!document.querySelector("#size option")) await new Promise((go) => setTimeout(go, 10));
  document.getElementById("form").requestSubmit();
});
</script>
</body>"""


def test_the_page_has_no_address_outside_the_server(http_url: str) -> None:
    response = httpx.get(f"{http_url}/docs")
    page = response.text
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"(?m)^\s*//.*$", "", page))
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_renders_the_routes_and_the_form_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = docs_page().replace(b"</body>", DRIVER.encode())
    monkeypatch.setattr("fletcher.serve.http.apis.service.docs_page", lambda: page)
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")) as server:
        dom = _dump(f"{server.addresses.http}/docs", tmp_path)
    for route in ("POST /v1/embeddings", "GET /v1/models", "GET /health", "GET /ready", "GET /metrics"):
        assert f'data-route="{route}"' in dom
    assert '<option value="fake-model">' in dom
    assert 'id="shape-EmbeddingRequest"' in dom
    assert re.search(r'id="state"[^>]*>48 tokens, [0-9.]+ ms<', dom)  # three texts, each truncated to 16 tokens
    assert dom.count("<td>1.0000</td>") == 3  # each text has the similarity 1 with itself
    assert not re.search(r"""(?:src|href)=["']https?:""", dom)


def _dump(url: str, profile: Path) -> str:
    """Return the DOM of the page after its scripts ran. The browser can resolve only the loopback."""
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            url,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
