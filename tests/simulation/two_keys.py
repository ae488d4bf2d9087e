"""A flood of ann beside single texts of bob: how long bob waits, counted in batches.

    python -m tests.simulation.two_keys

It prints a table: for each flood that a review found to make the server refuse everybody else, the longest of bob's waits
alone and beside the flood. The model, its tokenizer and the server's code are real. The clock is a world's, and every batch
takes the same time on it, so the cores of the machine do not decide.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.convert.export.export import export
from fletcher.runtime import Encoder, Encodings
from fletcher.serve.http import app as http_app
from fletcher.serve.http.call import AsgiApp
from fletcher.serve.models import version as version_module
from fletcher.serve.server_options import ServerOptions
from fletcher.serve.surroundings import Surroundings

from ..convert.tiny import save_embedder
from .stage.loop import VirtualLoop
from .stage.standins import standins
from .stage.world import World, the_world

#: Tokens and seconds of a batch.
BUDGET, BATCH = 1024, 0.08

#: Bob's requests in each of the two phases.
REQUESTS = 30

TOKENS = {"ann": "fletcher-ann", "bob": "fletcher-bob"}

#: Limits of both keys: bob's headers count his own requests.
LIMITS = {"requests": {"day": 1_000_000}, "tokens": {"day": 1_000_000_000}}

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "away"]


class TimedModel:
    """A real encoder whose batches take a fixed time of a world."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.info = msgspec.structs.replace(encoder.info, workers=1, token_budget=BUDGET, small_tokens=0)
        self.batches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        the_world().sleep(BATCH)
        self.batches += 1
        return self._encoder.run(batch, output)


class Client:
    """A client with a key."""

    def __init__(self, app: AsgiApp, name: str, priority: str | None = None) -> None:
        self._app = app
        self._headers = [(b"authorization", f"Bearer {TOKENS[name]}".encode())]
        if priority is not None:
            self._headers.append((b"x-priority", priority.encode()))

    async def ask(self, texts: Any, **options: Any) -> tuple[int, dict[bytes, bytes], bytes]:
        """Ask for vectors; return status, headers and body."""
        body = json.dumps({"model": "tiny", "input": texts, "encoding_format": "base64", **options}).encode()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/v1/embeddings",
            "query_string": b"",
            "headers": self._headers,
            "client": ("192.0.2.1", 1),
            "scheme": "http",
        }
        left, messages, sent = asyncio.Event(), [{"type": "http.request", "body": body}], []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await self._app(scope, receive, send)
        finally:
            left.set()
        return sent[0]["status"], dict(sent[0]["headers"]), b"".join(part.get("body", b"") for part in sent[1:])


Flood = Callable[[AsgiApp], list[Awaitable[Any]]]


async def again(client: Client, texts: Any, **options: Any) -> None:
    """Send a request again and again. A refused client waits for a moment."""
    while True:
        status, _, body = await client.ask(texts, **options)
        assert status in (200, 413, 429), body
        await asyncio.sleep(0.0 if status == 200 else 0.05)


def sentences(count: int, words: int) -> list[str]:
    return [" ".join(WORDS[(row + place) % len(WORDS)] for place in range(words)) + f" {row}" for row in range(count)]


def windows(app: AsgiApp) -> list[Awaitable[Any]]:
    """One text of 64 KiB, with as many windows as the model allows."""
    text = (" ".join(WORDS) * 1200)[: 64 << 10]
    return [again(Client(app, "ann"), text, overflow="windows", overlap_tokens=10)]


def lists(app: AsgiApp) -> list[Awaitable[Any]]:
    """Eight requests of 2,048 texts, the largest of OpenAI's API."""
    return [again(Client(app, "ann"), sentences(2048, 30)) for _ in range(8)]


def connections(priority: str | None) -> Flood:
    def flood(app: AsgiApp) -> list[Awaitable[Any]]:
        return [again(Client(app, "ann", priority), sentences(32, 12)) for _ in range(64)]

    return flood


#: The rows of the review's table, with bob's class.
ROWS: dict[str, tuple[Flood, str | None]] = {
    "windows": (windows, None),
    "windows, bob interactive": (windows, "interactive"),
    "lists": (lists, None),
    "lists, bob interactive": (lists, "interactive"),
    "64 connections": (connections(None), None),
    "64 connections, interactive": (connections("interactive"), "interactive"),
    "64 connections, bob bulk": (connections(None), "bulk"),
    "64 interactive connections, bob normal": (connections("interactive"), None),
}


async def ask_singles(client: Client, right: NDArray[np.float32]) -> tuple[list[float], list[bytes]]:
    """Send single texts one after the other; return the seconds of each, and the counters that the answers show."""
    seconds, counters = [], []
    for number in range(REQUESTS):
        begun = the_world().now
        status, headers, body = await client.ask(f"bob {number}")
        seconds.append(the_world().now - begun)
        assert status == 200, (number, body)
        vector = np.frombuffer(base64.b64decode(json.loads(body)["data"][0]["embedding"]), np.float32)
        np.testing.assert_allclose(vector, right[number], atol=1e-5)
        counters.append(headers[b"x-ratelimit-remaining-requests"])
        await asyncio.sleep(0.01)
    return seconds, counters


def longest_waits(encoder: Encoder, keys: Path, flood: Flood, priority: str | None) -> tuple[float, float]:
    """Serve bob alone, and then beside a flood of ann; check his statuses, vectors and counters.

    Args:
        encoder: the model.
        keys: file with both keys.
        flood: the flood.
        priority: class of bob's requests.

    Returns:
        The longest wait of bob for an answer, in batches: alone, and beside the flood.
    """
    longest: list[float] = []
    right = encoder.embed([f"bob {number}" for number in range(REQUESTS)]).vectors
    model = TimedModel(encoder)
    world = World(7)

    async def compare(app: AsgiApp) -> None:
        bob = Client(app, "bob", priority)
        alone, counted_alone = await ask_singles(bob, right)
        tasks = [asyncio.ensure_future(work) for work in flood(app)]
        before = model.batches
        while model.batches < before + 5:
            await asyncio.sleep(BATCH)
        beside, counted = await ask_singles(bob, right)
        assert not any(task.done() for task in tasks), "the flood has ended"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        longest.extend((max(alone) / BATCH, max(beside) / BATCH))
        first = int(counted_alone[0])
        assert [int(each) for each in counted_alone + counted] == list(range(first, first - 2 * REQUESTS, -1))

    def main() -> None:
        surroundings = Surroundings.open(ServerOptions(keys=str(keys), name="tiny", drain_seconds=1))
        models = surroundings.open_models(model)
        loop = VirtualLoop()
        try:
            loop.run_until_complete(compare(surroundings.make_app(models)))
        finally:
            loop.dispose()
            models.stop(1.0)
            surroundings.close()

    with (
        standins(),
        mock.patch.object(http_app, "openapi_document", lambda *_, **__: {}),
        mock.patch.object(version_module, "give_memory_back", lambda: None),
    ):
        world.run(main)
    alone, beside = longest
    return alone, beside


def write_keys(path: Path) -> Path:
    """Write the keys of both clients into a file, and return it."""
    entries = [
        {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), "limits": LIMITS}
        for name, token in TOKENS.items()
    ]
    path.write_text(json.dumps({"keys": entries}))
    path.chmod(0o600)
    return path


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_embedder(folder / "checkpoint")
        export(str(folder / "checkpoint"), folder / "artifact")
        keys = write_keys(folder / "keys.json")
        with Encoder.load(folder / "artifact", provider="mlas", cache=0) as encoder:
            sys.stdout.write(f"{'flood':42} {'alone':>6} {'beside':>6} {'ratio':>6}\n")
            for row, (flood, priority) in ROWS.items():
                alone, beside = longest_waits(encoder, keys, flood, priority)
                sys.stdout.write(f"{row:42} {alone:6.2f} {beside:6.2f} {beside / alone:6.2f}\n")


if __name__ == "__main__":
    main()
