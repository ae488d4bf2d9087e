"""Client process of the HTTP loads: keep-alive connections, each with one request in flight, all requests made beforehand.

    python -m benchmarks.serve.gpu_parts.http_load SPEC

SPEC is a JSON file with the fields of `HttpSpec`. The process connects and prints `ready`; then it reads a line with two
times of the monotonic clock, sends requests at once, and measures between the two times. It writes latencies and sampled
vectors to a file of numpy's and prints one line of JSON. The timed loop reads only the status and the content length of an
answer; sampled answers are decoded after it.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import uvloop

#: Bytes that a connection reads at once. All connections of the process share the buffer, because the loop calls
#: `buffer_updated` before the next read.
BUFFER = bytearray(1 << 20)
VIEW = memoryview(BUFFER)

#: Seconds that requests in flight have after the end of the measurement.
PATIENCE = 10.0

#: Seconds until a connection sends the next request after a refusal or a failure.
PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """Work of the process.

    Attributes:
        port: port on the loopback.
        pool: JSON file of the texts.
        texts: texts of a request.
        dtype: type of the vectors' elements.
        connections: connections of this process.
        client: number of this process, from 0.
        clients: number of processes; each sends its own part of the requests.
        samples: answers whose vectors are kept.
        output: file for latencies and sampled vectors.
    """

    port: int
    pool: str
    texts: int
    dtype: str
    connections: int
    client: int
    clients: int
    samples: int
    output: str


def make_requests(spec: HttpSpec) -> tuple[list[int], list[bytes]]:
    """Return the index of the first text of each request, and the bytes of the requests."""
    texts = json.loads(Path(spec.pool).read_text())
    starts = list(range(0, len(texts) - spec.texts + 1, spec.texts))[spec.client :: spec.clients]
    requests = []
    for start in starts:
        chosen = texts[start] if spec.texts == 1 else texts[start : start + spec.texts]
        content = {"input": chosen, "model": "bench", "encoding_format": "base64"}
        body = json.dumps(content | ({} if spec.dtype == "float32" else {"dtype": spec.dtype})).encode()
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1:{spec.port}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    return starts, requests


class Load:
    """Requests and results of the process."""

    def __init__(self, spec: HttpSpec) -> None:
        self.starts, self.requests = make_requests(spec)
        self.port = spec.port
        self.begin = self.end = 0.0
        self.position = 0
        self.answered = 0
        self.latencies = array("d")
        self.errors: Counter[str] = Counter()
        self.in_flight = 0
        step = max(len(self.requests) // max(spec.samples, 1), 1)
        self.sampled = set(range(0, len(self.requests), step))
        self.samples: dict[int, bytes] = {}

    def next_request(self) -> int:
        """Return the number of the next request."""
        number = self.position
        self.position = (number + 1) % len(self.requests)
        return number


class Connection(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport | None = None
        self.connecting = False
        self.number = -1  # of the request in flight
        self.sent = 0.0
        self.left = -1  # bytes of the body that are missing; -1 before the head is complete
        self.status = b""
        self.partial = b""  # start of a head that arrived in parts
        self.kept: bytearray | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        """Send the next request, unless one is in flight or the measurement has ended."""
        load = self.load
        now = time.monotonic()
        if now >= load.end or self.number >= 0 or self.connecting:
            return
        if self.transport is None or self.transport.is_closing():
            asyncio.get_running_loop().create_task(self.connect())
            return
        self.number = number = load.next_request()
        keep = number in load.sampled and number not in load.samples and now >= load.begin
        self.kept = bytearray() if keep else None
        self.left = -1
        self.sent = now
        load.in_flight += 1
        self.transport.write(load.requests[number])

    async def connect(self) -> None:
        """Connect again."""
        self.transport, self.connecting = None, True
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, "127.0.0.1", self.load.port)
        except OSError as error:
            self.connecting = False
            self.load.errors[f"connect: {type(error).__name__}"] += 1
            loop.call_later(10 * PAUSE, self.send)
        else:
            self.connecting = False
            self.send()

    def get_buffer(self, hint: int) -> memoryview:
        return VIEW

    def buffer_updated(self, count: int) -> None:
        if self.left >= 0:
            if self.kept is not None:
                self.kept += VIEW[:count]
            self.left -= count
        else:
            data: bytes | bytearray = BUFFER
            if self.partial:
                data = self.partial + VIEW[:count]
                count = len(data)
            end = data.find(b"\r\n\r\n", 0, count)
            if end < 0:
                self.partial = bytes(data[:count])
                return
            self.partial = b""
            self.status = bytes(data[9:12])
            place = data.find(b"content-length:", 0, end)
            if place < 0:
                place = bytes(data[:end]).lower().find(b"content-length:")
            if place < 0:
                self.fail("an answer without content-length")
                return
            length_end = data.find(b"\r", place, end)
            length = int(data[place + 15 : length_end if length_end >= 0 else end])
            if self.kept is not None:
                self.kept += data[end + 4 : count]
            self.left = length - (count - end - 4)
        if self.left <= 0:
            self.finish()

    def finish(self) -> None:
        """Count the answer, and send the next request."""
        load, now = self.load, time.monotonic()
        self.left = -1
        if self.number < 0:
            load.errors["an answer without a request"] += 1
            return
        load.in_flight -= 1
        number, self.number = self.number, -1
        if self.status != b"200":
            load.errors[f"status {self.status.decode(errors='replace')}"] += 1
            asyncio.get_running_loop().call_later(PAUSE, self.send)
            return
        if load.begin <= now < load.end:
            load.answered += 1
            load.latencies.append(now - self.sent)
        if self.kept is not None:
            load.samples[number] = bytes(self.kept)
            self.kept = None
        self.send()

    def fail(self, reason: str) -> None:
        """Count a failure of the request in flight, and close the connection."""
        self.load.errors[reason] += 1
        if self.number >= 0:
            self.load.in_flight -= 1
            self.number = -1
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self.number >= 0:
            self.fail("the server closed the connection")
        self.partial, self.left = b"", -1
        loop = asyncio.get_running_loop()
        if time.monotonic() < self.load.end:
            loop.call_later(PAUSE, self.send)


async def run(spec: HttpSpec) -> dict[str, object]:
    """Run the load."""
    load = Load(spec)
    loop = asyncio.get_running_loop()
    connections = [Connection(load) for _ in range(spec.connections)]
    for connection in connections:
        await loop.create_connection(lambda connection=connection: connection, "127.0.0.1", spec.port)
    gc.freeze()
    gc.disable()
    print("ready", flush=True)
    load.begin, load.end = map(float, (await loop.run_in_executor(None, sys.stdin.readline)).split())
    for connection in connections:
        connection.send()
    await asyncio.sleep(load.begin - time.monotonic())
    cpu = time.process_time()
    await asyncio.sleep(load.end - time.monotonic())
    cpu = time.process_time() - cpu
    while load.in_flight and time.monotonic() < load.end + PATIENCE:
        await asyncio.sleep(0.01)
    if load.in_flight:
        load.errors[f"no answer within {PATIENCE:g} s after the end"] += load.in_flight
    for connection in connections:
        if connection.transport is not None:
            connection.transport.abort()
    indices, vectors = decode(spec, load)
    np.savez(spec.output, milliseconds=1000 * np.array(load.latencies), indices=indices, vectors=vectors)
    return {
        "texts": load.answered * spec.texts,
        "requests": load.answered,
        "cpu_seconds": cpu,
        "errors": dict(load.errors),
    }


def decode(spec: HttpSpec, load: Load) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the sampled texts, and their vectors."""
    indices: list[int] = []
    vectors: list[np.ndarray] = []
    for number, body in load.samples.items():
        items = sorted(json.loads(body)["data"], key=lambda item: item["index"])
        if len(items) != spec.texts:
            load.errors[f"an answer with {len(items)} vectors"] += 1
            continue
        for offset, item in enumerate(items):
            indices.append(load.starts[number] + offset)
            vectors.append(np.frombuffer(base64.b64decode(item["embedding"]), spec.dtype).astype(np.float32))
    return np.array(indices, np.int64), np.array(vectors, np.float32)


def main() -> None:
    """Run the process."""
    spec = HttpSpec(**json.loads(Path(sys.argv[1]).read_text()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(spec))), flush=True)


if __name__ == "__main__":
    main()
