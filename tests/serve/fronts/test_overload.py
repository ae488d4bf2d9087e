"""Clients that read nothing, and ten times more requests than the model computes, with one process and with several."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.runtime import Encoder
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from .slow_child import slow_down

SECONDS = 60.0

#: Seconds of a batch of the slow model.
SLOW = 0.02

#: Texts of a request.
TEXTS = 32

#: Tokens of the queue.
QUEUE_TOKENS = 8000

#: The tests start processes, which `tests/heavy.py` cannot see.
pytestmark = pytest.mark.heavy


@dataclass(frozen=True, slots=True)
class Opened:
    """A running server.

    Attributes:
        port: port of HTTP.
        pids: engine process and fronts; only this process without fronts.
    """

    port: int
    pids: tuple[int, ...]


@contextmanager
def opened(artifact: Path, fronts: int, *, slow: float = 0.0) -> Iterator[Opened]:
    """Serve an artifact; with fronts in several processes."""
    spec = ModelSpec(path=str(artifact), name="tiny", provider="mlas", cache=0)
    options = ServerOptions(
        http="127.0.0.1:0", flight="off", fronts=fronts, drain_seconds=10, queue_tokens=QUEUE_TOKENS, queue_seconds=5
    )
    if fronts:
        command = (sys.executable, str(Path(__file__).with_name("slow_child.py")), str(slow))
        with Supervisor([spec], options, command=command) as supervisor:
            engine, others = supervisor.pids
            yield Opened(_port(supervisor.addresses.http), (engine, *others))
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "run", Encoder.run)  # restored afterwards
        slow_down(slow)
        with Server([spec], options) as server:
            yield Opened(_port(server.addresses.http), (os.getpid(),))


def _port(url: str | None) -> int:
    assert url is not None
    return int(url.rpartition(":")[2])


def message(texts: Sequence[str], encoding: str = "base64") -> bytes:
    """Return a request on a connection that ends with it."""
    body = json.dumps({"model": "tiny", "input": texts, "encoding_format": encoding}).encode()
    return (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        % len(body)
        + body
    )


def memory(pid: int) -> int:
    """Return the proportional set size of a process in bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024


def ask(port: int, texts: Sequence[str]) -> tuple[int, dict[str, str], Any]:
    """Send a request; return status, headers and vectors."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(message(texts))
        data = b""
        while part := connection.recv(1 << 18):
            data += part
    return parsed(data)


def parsed(data: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and vectors of an answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    status = int(lines[0].split()[1])
    assert len(body) == int(headers["content-length"])
    if status != 200:
        return status, headers, None
    rows = [base64.b64decode(item["embedding"]) for item in json.loads(body)["data"]]
    return status, headers, np.stack([np.frombuffer(row, np.float32) for row in rows])


# Slow readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fronts", [0, 1])
def test_clients_that_read_nothing_hold_nobody_up(tiny_artifact: Path, fronts: int) -> None:
    texts = [f"a text with number {number}" for number in range(256)]
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        expected = encoder.embed(["another text"]).vectors
    with opened(tiny_artifact, fronts) as server:
        ask(server.port, ["another text"])
        request = message(texts, "float").replace(b"connection: close\r\n", b"")
        before = [memory(pid) for pid in server.pids]
        stuck = []
        try:
            for _ in range(3):
                connection = socket.socket()
                stuck.append(connection)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
                connection.settimeout(0.5)
                connection.connect(("127.0.0.1", server.port))
                try:
                    for _ in range(3000):  # more than the system's buffers hold
                        connection.sendall(request)
                except TimeoutError:
                    pass
                else:
                    raise AssertionError("the server reads without end from a client that reads nothing")
            for _ in range(30):
                began = time.monotonic()
                status, _, vectors = ask(server.port, ["another text"])
                assert status == 200
                np.testing.assert_allclose(vectors, expected, atol=1e-5)
                assert time.monotonic() - began < 5
            after = [memory(pid) for pid in server.pids]
        finally:
            for connection in stuck:
                connection.close()
    # Two answers and one piece of requests a connection, of some 100 kB each.
    assert sum(after) - sum(before) < 30e6


def test_a_front_that_is_held_delays_only_its_own_clients(tiny_artifact: Path) -> None:
    texts = [f"a text with number {number}" for number in range(TEXTS)]
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        expected = encoder.embed(texts).vectors
    with opened(tiny_artifact, 2) as server:
        engine, held, _ = server.pids
        kept = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS) for _ in range(8)]
        answers: list[Any] = [None] * len(kept)
        body = json.dumps({"model": "tiny", "input": texts, "encoding_format": "base64"})
        for connection in kept:  # in turn to both fronts
            connection.request("GET", "/health")
            connection.getresponse().read()

        def send(number: int) -> None:
            kept[number].request("POST", "/v1/embeddings", body)
            answer = kept[number].getresponse()
            rows = [base64.b64decode(item["embedding"]) for item in json.loads(answer.read())["data"]]
            answers[number] = np.stack([np.frombuffer(row, np.float32) for row in rows])

        before = memory(engine)
        os.kill(held, signal.SIGSTOP)
        try:
            threads = [threading.Thread(target=send, args=(number,)) for number in range(len(kept))]
            for thread in threads:
                thread.start()
            end = time.monotonic() + SECONDS
            while sum(answer is not None for answer in answers) < len(kept) // 2:
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(1.0)
            assert sum(answer is not None for answer in answers) == len(kept) // 2  # those of the other front
            assert memory(engine) - before < 20e6
        finally:
            os.kill(held, signal.SIGCONT)
        for thread in threads:
            thread.join(SECONDS)
        for answer in answers:
            np.testing.assert_allclose(answer, expected, atol=1e-5)
        for connection in kept:
            connection.close()


# Overload -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer under load: its number, its seconds, and its content."""

    number: int
    seconds: float
    status: int
    headers: dict[str, str]
    vectors: Any


async def offer(port: int, texts: Sequence[Sequence[str]], rate: float, seconds: float) -> list[Answer]:
    """Begin requests at a fixed rate, whether or not earlier ones are answered."""
    messages = [message(each) for each in texts]

    async def one(number: int) -> Answer:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(messages[number])
        data = await asyncio.wait_for(reader.read(-1), SECONDS)
        writer.close()
        return Answer(number, time.monotonic() - began, *parsed(data))

    tasks: list[asyncio.Task[Answer]] = []
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        while len(tasks) < now * rate:
            tasks.append(asyncio.create_task(one(len(tasks) % len(messages))))
        await asyncio.sleep(0.005)
    return list(await asyncio.gather(*tasks))


@pytest.mark.parametrize("fronts", [0, 2])
def test_ten_times_the_capacity_is_refused_and_the_rest_is_right(tiny_artifact: Path, fronts: int) -> None:
    texts = [[f"request {number} text {place} of many" for place in range(TEXTS)] for number in range(64)]
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        expected = [encoder.embed(each).vectors for each in texts]
        tokens = int(encoder.embed(texts[0]).tokens.sum())
    with opened(tiny_artifact, fronts, slow=SLOW) as server:
        asyncio.run(offer(server.port, texts, 5, 0.5))
        # Capacity: requests that are answered while the queue is full.
        burst = asyncio.run(offer(server.port, texts, 60, 1.5))
        capacity = sum(answer.status == 200 for answer in burst) / (1.5 + max(answer.seconds for answer in burst))
        before = [memory(pid) for pid in server.pids]
        answers = asyncio.run(offer(server.port, texts, 10 * capacity, 2.5))
        after = [memory(pid) for pid in server.pids]
        began = time.monotonic()
        status, _, vectors = ask(server.port, texts[0])
        recovery = time.monotonic() - began

    counts = Counter(answer.status for answer in answers)
    assert set(counts) == {200, 429}, counts
    assert counts[429] > counts[200] > capacity
    for answer in answers:
        if answer.status == 200:
            np.testing.assert_allclose(answer.vectors, expected[answer.number], atol=1e-5)
        else:
            assert int(answer.headers["retry-after"]) >= 1
    # A full queue is emptied in `full` seconds. The machine of the tests is busy, so that figures vary by half.
    full = QUEUE_TOKENS / tokens / capacity
    assert max(answer.seconds for answer in answers if answer.status == 200) < 3 * full + 2
    assert sum(after) - sum(before) < 60e6
    assert status == 200 and recovery < full + 2
    np.testing.assert_allclose(vectors, expected[0], atol=1e-5)
