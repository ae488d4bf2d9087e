"""Fixtures of the live view: a running server with known requests between two scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from fletcher.serve import Server, ServerOptions
from fletcher.serve.top.scrape import Scrape, read_page

from ..fake_encoder import FakeEncoder

#: Requests that `ask` sends: texts of 2 and 4 characters have 4 and 6 tokens; the longest input is 16 tokens.
BODIES: tuple[dict[str, Any], ...] = (
    {"model": "fake-model", "input": ["ab", "abcd"]},
    {"model": "fake-model", "input": ["efgh"]},
    {"model": "fake-model", "input": ["x" * 20]},
    {"model": "unknown", "input": ["ab"]},
)


@pytest.fixture
def url() -> Iterator[str]:
    """Return the address of a server of a fake encoder whose batches take 20 ms."""
    options = ServerOptions(http="127.0.0.1:0", flight="off")
    with Server(FakeEncoder(delay=0.02, workers=1, token_budget=64), options) as server:
        yield str(server.addresses.http)


@pytest.fixture
def read(url: str) -> Callable[[], Scrape]:
    return partial(read_page, url, None, 5.0)


def ask(url: str) -> list[int]:
    """Send `BODIES` one after the other, and return the statuses."""
    with httpx.Client(base_url=url) as client:
        return [client.post("/v1/embeddings", json=body).status_code for body in BODIES]
