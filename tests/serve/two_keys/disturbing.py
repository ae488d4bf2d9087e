"""What a client does to the others: it floods, fails, exhausts its limits, and leaves in the middle."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import httpx
import pyarrow as pa
import pyarrow.flight as fl

from .kinds import SECONDS, TEXTS, Target

__all__ = ["DISTURBANCES", "disturbing"]

#: Function that does something once with a key; it gets a number that rises.
Act = Callable[[Target, str, int], object]


def _embed(target: Target, key: str, texts: list[str]) -> httpx.Response:
    return target.client.post(
        "/v1/embeddings",
        json={"model": target.embedder, "input": texts},
        headers={"authorization": f"Bearer {key}"},
    )


def flood(target: Target, key: str, number: int) -> object:
    """Send many texts, among them those of the other client."""
    return _embed(target, key, [f"{number} {place}" for place in range(200)] + TEXTS).status_code


def flood_flight(target: Target, key: str, number: int) -> object:
    """Send a stream of record batches."""
    batch = pa.RecordBatch.from_pydict({"text": [f"{number} {place}" for place in range(100)] + TEXTS})
    with fl.connect(target.flight) as client:
        options = fl.FlightCallOptions(timeout=SECONDS, headers=[(b"authorization", f"Bearer {key}".encode())])
        described = fl.FlightDescriptor.for_command(json.dumps({"model": target.embedder}).encode())
        writer, reader = client.do_exchange(described, options)
        with writer:
            writer.begin(batch.schema)
            for _ in range(4):
                writer.write_batch(batch)
            writer.done_writing()
            return reader.read_all().num_rows


def fail(target: Target, key: str, number: int) -> object:
    """Send requests that fail: a text that the model fails at, wrong bodies, names, types and keys."""
    wrong = [
        ("/v1/embeddings", json.dumps({"model": target.embedder, "input": ["fine", "poison"]}).encode(), {}),
        ("/v1/embeddings", b'{"model": "', {}),
        ("/v1/embeddings", json.dumps({"model": "absent", "input": "a"}).encode(), {}),
        ("/v1/embeddings", b"\x1f\x8b" + b"\0" * 100, {"content-encoding": "gzip"}),
        ("/encode", b"\xc4\x82\x1b", {"content-type": "application/cbor"}),
        ("/encode/arrow", b"\xff" * 64, {"content-type": "application/vnd.apache.arrow.stream"}),
        ("/rerank", json.dumps({"query": "a", "texts": []}).encode(), {}),
        ("/absent", b"", {}),
        ("/v1/embeddings", b"{}", {"authorization": "Bearer wrong"}),
        ("/v1/embeddings", b"{}", {"x-priority": "none", "x-request-timeout": "-1"}),
    ]
    path, body, headers = wrong[number % len(wrong)]
    return target.client.post(
        path,
        content=body,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json", **headers},
    ).status_code


def leave(target: Target, key: str, number: int) -> object:
    """Send half of a body, or all of it, and leave without a read."""
    host, _, port = target.http.removeprefix("http://").rpartition(":")
    body = json.dumps({"model": target.embedder, "input": [f"{number} {place}" for place in range(100)]}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(head + body[: len(body) // (1 + number % 2)])
    return 0


#: Disturbances by name, and whether the client has limits that it exhausts.
DISTURBANCES: Final[Mapping[str, tuple[tuple[Act, ...], bool]]] = {
    "floods": ((flood, flood, flood_flight), False),
    "fails": ((fail, fail), False),
    "leaves": ((leave, leave), False),
    "exhausts its limits": ((flood, flood_flight, fail), True),
}


@contextmanager
def disturbing(target: Target, key: str, acts: tuple[Act, ...]) -> Iterator[None]:
    """Do something all the time inside the context: each act on a thread of its own."""
    ended, begun = threading.Event(), [threading.Event() for _ in acts]

    def work(act: Act, first: threading.Event) -> None:
        for number in itertools.count():
            # The client does not care for what becomes of it; the other client's answers are judged.
            with contextlib.suppress(httpx.HTTPError, fl.FlightError, pa.ArrowException, OSError):
                act(target, key, number)
            first.set()
            if ended.is_set():
                return

    threads = [threading.Thread(target=work, args=pair) for pair in zip(acts, begun, strict=True)]
    for thread in threads:
        thread.start()
    try:
        for first in begun:
            assert first.wait(SECONDS)
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
