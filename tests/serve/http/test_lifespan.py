"""Lifespan of ASGI: the application answers its events, called directly and by uvicorn, as any ASGI server needs it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.lifespan.on import LifespanOn

from fletcher.serve.engine.engine import Engine
from fletcher.serve.http.app import HttpApp
from fletcher.serve.models.registry import Models
from fletcher.serve.models.spec import ModelSpec

from ..fake_encoder import FakeEncoder, expected

SECONDS = 10.0


@pytest.fixture
def models() -> Iterator[Models]:
    models = Models(lambda spec: FakeEncoder(), lambda encoder, metrics: Engine(encoder, metrics=metrics))
    models.apply([ModelSpec(path="", name="fake-model")])
    yield models
    models.stop(SECONDS)


def test_startup_and_shutdown_are_complete(models: Models) -> None:
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(events)}

    async def send(message: Any) -> None:
        sent.append(message)

    app = HttpApp(models)
    asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}, receive, send))
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


def test_websockets_are_rejected(models: Models) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("no message is read or sent")

    with pytest.raises(RuntimeError, match="HTTP, not websocket"):
        asyncio.run(HttpApp(models)({"type": "websocket", "path": "/"}, nothing, nothing))


def test_uvicorn_with_lifespan_runs_it(models: Models) -> None:
    server = uvicorn.Server(uvicorn.Config(HttpApp(models), lifespan="on", log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until = time.monotonic() + SECONDS
            while not server.started:
                assert thread.is_alive() and time.monotonic() < until
                time.sleep(0.005)
            answer = httpx.post(
                f"http://127.0.0.1:{listener.getsockname()[1]}/v1/embeddings",
                json={"model": "fake-model", "input": "ab"},
                timeout=SECONDS,
            )
        finally:
            server.should_exit = True
            thread.join(SECONDS)
    assert answer.json()["data"][0]["embedding"] == expected("ab").tolist()
    assert not thread.is_alive()
    assert isinstance(server.lifespan, LifespanOn)
    assert not server.lifespan.startup_failed and not server.lifespan.shutdown_failed
