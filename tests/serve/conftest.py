"""A server on free ports over an encoder whose vectors are known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from .fake_encoder import FakeEncoder


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def server(fake_encoder: FakeEncoder) -> Iterator[Server]:
    """Both doors, on free ports of the loopback."""
    with Server(fake_encoder, ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10)) as running:
        yield running
        fake_encoder.gate.set()


@pytest.fixture
def http_url(server: Server) -> str:
    assert server.addresses.http is not None
    return server.addresses.http


@pytest.fixture
def flight_url(server: Server) -> str:
    assert server.addresses.flight is not None
    return server.addresses.flight
