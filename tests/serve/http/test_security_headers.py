"""Headers that browsers obey, over a real server."""

from __future__ import annotations

import httpx


def test_every_answer_forbids_to_guess_its_type_and_to_keep_it(http_url: str) -> None:
    for method, path in (("GET", "/health"), ("GET", "/docs"), ("POST", "/v1/embeddings"), ("GET", "/nowhere")):
        answer = httpx.request(method, f"{http_url}{path}")
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers.get_list("cache-control") == ["no-store"]


def test_the_page_loads_nothing_from_elsewhere_and_tells_no_referrer(http_url: str) -> None:
    headers = httpx.get(f"{http_url}/docs").headers
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
