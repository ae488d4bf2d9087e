"""A model that closes or wakes slowly: it holds neither the event loop nor requests with a deadline, and a stop ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.runtime import Encodings
from fletcher.runtime.errors import DeadlineError, ProviderError
from fletcher.serve.embedded.async_engine import AsyncEngine
from fletcher.serve.engine.embed_request import PLAIN
from fletcher.serve.engine.engine import Engine
from fletcher.serve.engine.terms import Terms
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..engine.test_engine import wait_for
from ..fake_encoder import FakeEncoder, request_for

SECONDS = 30.0

SLEEPER = ModelSpec(path="", name="sleeper", idle_seconds=0.1)
OTHER = ModelSpec(path="", name="other")


class Slow(FakeEncoder):
    """Encoder whose end waits."""

    def __init__(self, released: threading.Event) -> None:
        super().__init__()
        self.closing = False
        self._released = released

    def close(self) -> None:
        self.closing = True
        self._released.wait()


class Shelf:
    """Loader whose models close, and load a second time, when `released` is set."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.encoders: list[Slow] = []

    def __call__(self, spec: ModelSpec) -> Slow:
        if any(encoder.closing for encoder in self.encoders):
            self.released.wait()
        self.encoders.append(Slow(self.released))
        return self.encoders[-1]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.released.set()


def test_a_model_that_closes_slowly_does_not_hold_the_event_loop(shelf: Shelf) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=1)
    with Server([SLEEPER, OTHER], options, load=shelf) as server:
        wait_for(lambda: shelf.encoders[0].closing)
        with httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS) as http:
            started = time.monotonic()
            # The model cannot wake before it is closed. The answer comes at the deadline, and others are not delayed.
            late = http.post(
                "/v1/embeddings", json={"model": "sleeper", "input": "ab"}, headers={"x-request-timeout": "0.3"}
            )
            assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
            assert http.post("/v1/embeddings", json={"model": "other", "input": "ab"}).status_code == 200
            assert time.monotonic() - started < 5
            with pytest.raises(DeadlineError):
                server.models.submit_blocking(
                    "sleeper", request_for(["ab"], PLAIN, Terms(deadline=time.monotonic() + 0.1))
                )
        shelf.released.set()


async def ask(shelf: Shelf, seconds: float) -> None:
    """Ask a model that cannot wake."""
    async with AsyncEngine([SLEEPER], ServerOptions(drain_seconds=1), load=shelf) as engine:
        while not shelf.encoders[0].closing:
            await asyncio.sleep(0.01)
        with pytest.raises(DeadlineError):
            await engine.embed("ab", timeout=seconds)
        shelf.released.set()


def test_a_closed_model_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr("fletcher.serve.models.version.give_memory_back", lambda: given.append("closed"))
    with Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off")):
        assert given == []
    assert given == ["closed"]


def test_a_call_of_a_model_that_wakes_has_a_deadline(shelf: Shelf) -> None:
    asyncio.run(ask(shelf, 0.2))


def test_an_engine_stops_while_a_batch_of_a_failed_request_hangs() -> None:
    """One batch of a request fails, and another one hangs: the request has failed, and nothing else is open."""
    encoder = Half()
    engine = Engine(encoder)
    future = engine.submit(request_for(["xxxxxxxxxxxx"] * 8))  # two batches
    assert future.exception(SECONDS) is not None
    started = time.monotonic()
    assert engine.stop(5.0) is False
    assert time.monotonic() - started < 2
    encoder.gate.set()


class Half(FakeEncoder):
    """Encoder whose first batch hangs, while the others fail."""

    def __init__(self) -> None:
        super().__init__(workers=2)
        self.gate.clear()
        self._turn = threading.Lock()

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        if not self._turn.acquire(blocking=False):
            raise ProviderError("the device failed")
        return super().run(batch, output)
