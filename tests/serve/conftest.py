"""Fixtures: a server on free ports with an encoder whose vectors are known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from .fake_encoder import FakeEncoder


@pytest.fixture(scope="session", autouse=True)
def _short_ticks() -> Iterator[None]:
    """Let uvicorn's loop sleep 10 ms instead of 100 ms, so that each server stops up to 0.2 s sooner."""
    shortened = SimpleNamespace(**vars(asyncio))
    shortened.sleep = lambda seconds: asyncio.sleep(seconds / 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uvicorn.server.asyncio", shortened)
        yield


@pytest.fixture(scope="session", autouse=True)
def _kept_heap() -> Iterator[None]:
    """Keep the memory of closed models: many servers would each collect garbage among a million objects of torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fletcher.serve.models.version.give_memory_back", lambda: None)
        yield


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def server(fake_encoder: FakeEncoder) -> Iterator[Server]:
    """Return a server with HTTP and Flight on free ports of the loopback."""
    with Server(
        fake_encoder,
        ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", drain_seconds=10, admin="on", models_root="/"),
    ) as running:
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
