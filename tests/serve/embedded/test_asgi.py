"""`AsgiServer` on servers that are not Fletcher's: uvicorn's and hypercorn's commands, and without the lifespan protocol."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fletcher.runtime import Encoder
from fletcher.serve import AsgiServer, ServerOptions
from fletcher.serve.models.spec import ModelSpec

from ..fake_encoder import FakeEncoder, expected

SECONDS = 60.0

MODULE = """
from fletcher.serve import AsgiServer, ModelSpec, ServerOptions

app = AsgiServer([ModelSpec(path={path!r}, name="tiny", provider="mlas", cache=0)], ServerOptions())
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until_ready(url: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + SECONDS
    while True:
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["uvicorn", "module:app", "--lifespan", "on", "--port"], ""),
        (["uvicorn", "module:app", "--root-path", "/fletcher", "--port"], "/fletcher"),
        (["hypercorn", "module:app", "--bind"], ""),
    ],
)
def test_another_server_carries_the_application(
    command: list[str], path: str, tiny_artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "module.py").write_text(MODULE.format(path=str(tiny_artifact)))
    with Encoder.load(tiny_artifact, provider="mlas", cache=0) as encoder:
        right = encoder.embed(["a text"]).vectors[0]
    port = free_port()
    address = f"127.0.0.1:{port}" if command[0] == "hypercorn" else str(port)
    with running(tmp_path, *command, address) as process:
        url = f"http://127.0.0.1:{port}"
        until_ready(url, process)
        answer = httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": "a text"}, timeout=SECONDS)
        np.testing.assert_allclose(answer.json()["data"][0]["embedding"], right, atol=1e-6)
        assert httpx.get(f"{url}/", follow_redirects=False).headers["location"] == "docs"
        if path == "":
            lines = httpx.post(
                f"{url}/v1/embeddings",
                json={"model": "tiny", "input": ["a text"] * 100},
                headers={"accept": "application/x-ndjson"},
                timeout=SECONDS,
            )
            assert len(lines.text.splitlines()) == 101
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=SECONDS)
    assert "Traceback" not in log, log
    assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), (
        log
    )  # uvicorn ends by the signal that it got


def scope(path: str, **changes: Any) -> dict[str, Any]:
    asgi = {"version": "3.0", "spec_version": "2.3"}
    head = {"type": "http", "asgi": asgi, "http_version": "1.1", "method": "GET", "scheme": "http", "headers": []}
    return head | {"path": path, "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1)} | changes


async def ask(app: Any, asked: dict[str, Any], body: bytes = b"") -> tuple[int, bytes]:
    """Return the status and the body of an answer, by the protocol's own messages."""
    sent: list[dict[str, Any]] = []
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if unread:
            return unread.pop()
        await asyncio.sleep(SECONDS)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(asked, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_server_without_the_lifespan_protocol_gets_the_models_at_the_first_request() -> None:
    loads: list[str] = []

    def load(spec: ModelSpec) -> FakeEncoder:
        loads.append(spec.name)
        return FakeEncoder()

    async def run() -> None:
        app = AsgiServer([ModelSpec(path="", name="fake-model")], load=load)
        assert loads == []
        answers = await asyncio.gather(*(ask(app, scope("/health")) for _ in range(5)))
        assert {status for status, _ in answers} == {200}
        assert loads == ["fake-model"]
        await app.close()

    asyncio.run(run())


def test_a_prefix_in_the_scope_is_part_of_the_path() -> None:
    async def run() -> None:
        app = AsgiServer(FakeEncoder())
        body = b'{"model": "fake-model", "input": "ab"}'
        for root, path in (("", "/v1/embeddings"), ("/a", "/a/v1/embeddings"), ("/a", "/v1/embeddings")):
            status, answer = await ask(app, scope(path, root_path=root, method="POST"), body)
            assert status == 200 and str(expected("ab").tolist()[0]).encode() in answer
        await app.close()

    asyncio.run(run())


def test_the_end_of_the_lifespan_answers_what_was_admitted() -> None:
    encoder = FakeEncoder(workers=1, delay=0.3)

    async def run() -> None:
        app = AsgiServer(encoder, ServerOptions(drain_seconds=10))
        events: asyncio.Queue[str] = asyncio.Queue()
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": await events.get()}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        life = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, receive, send))
        events.put_nowait("lifespan.startup")
        while not sent:
            await asyncio.sleep(0.01)
        body = b'{"model": "fake-model", "input": "ab"}'
        answer = asyncio.create_task(ask(app, scope("/v1/embeddings", method="POST"), body))
        await asyncio.sleep(0.1)
        events.put_nowait("lifespan.shutdown")
        await life
        assert (await answer)[0] == 200
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(run())


def test_a_failed_start_is_told_to_the_server(tmp_path: Path) -> None:
    async def run() -> None:
        app = AsgiServer([ModelSpec(path=str(tmp_path / "none"), name="none")])
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "lifespan", "asgi": {}}, receive, send)
        assert sent[0]["type"] == "lifespan.startup.failed"
        assert "none" in sent[0]["message"]

    asyncio.run(run())
