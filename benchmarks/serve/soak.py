"""Soak test: mixed load for a quarter of an hour, in which no valid request may fail and memory may not grow.

    python benchmarks/serve/soak.py ARTIFACT [--seconds 900] [--clients 4] [--swap-seconds 20]

Clients send requests of one to 96 texts of one to four hundred words over HTTP (the routes of OpenAI, TEI and Cohere)
and streams over Flight, and a repeated text must get the same vector every time. At the same time other clients leave
before their answer and send invalid bodies, and the admin API exchanges the model. The exit status is 1 if a valid
request gets anything but its vectors, an invalid one gets anything but a 4xx, or memory grows by more than 5 % from the
second quarter of the time to the last.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
from numpy.typing import NDArray
from running import MemoryWatch, Running, serving

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "runs",
    "far",
    "away",
    "into",
    "deep",
    "dark",
    "woods",
    "where",
    "nobody",
    "goes",
]

#: Number of texts that are repeated, and largest difference of their vectors from the first one: the rounding of float32
#: differs between batches.
NUM_REPEATED, TOLERANCE = 200, 1e-5

BAD = [
    ("/v1/embeddings", b"{"),
    ("/v1/embeddings", b'{"model": "bench", "input": []}'),
    ("/v1/embeddings", b'{"model": "bench", "input": [1, "a"]}'),
    ("/v1/embeddings", b'{"model": "another", "input": "a"}'),
    ("/v1/embeddings", b'{"model": "bench", "input": "a", "dimensions": 7}'),
    ("/v1/embeddings", b'{"model": "bench", "input": "a", "color": "blue"}'),
    ("/embed", b'{"inputs": 1}'),
    ("/embed", b"\xff\xfe"),
    ("/v2/embed", b'{"model": "bench", "texts": ["a"]}'),
    ("/rerank", b'{"query": "a", "texts": ["b"]}'),  # the model is not a reranker
    ("/nothing", b"{}"),
]


class Soak:
    """`Soak`: state that the clients share."""

    def __init__(self, server: Running, artifact: str, until: float) -> None:
        """Prepare the state.

        Args:
            server: the server.
            artifact: folder of the served artifact.
            until: `time.monotonic()` at which all clients stop.
        """
        self.server = server
        self.artifact = artifact
        self.until = until
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.first_vectors: dict[str, NDArray[np.float32]] = {}
        self.lock = threading.Lock()

    def running(self) -> bool:
        """Report whether there is time left."""
        return time.monotonic() < self.until

    def texts(self, chance: random.Random) -> list[str]:
        """Return texts of any length, some of which are repeated."""

        def text() -> str:
            if chance.random() < 0.3:
                return f"{chance.randrange(NUM_REPEATED)} is a text that comes again"
            return " ".join(chance.choices(WORDS, k=int(400 ** chance.random())))

        return [text() for _ in range(int(96 ** chance.random()))]

    def check(self, kind: str, texts: list[str], vectors: NDArray[np.float32]) -> None:
        """Compare the answer to a valid request with the expected vectors."""
        self.counts[kind] += 1
        if len(vectors) != len(texts) or not np.isfinite(vectors).all():
            self.failures.append(f"{kind}: {vectors.shape} for {len(texts)} texts")
            return
        for text, vector in zip(texts, vectors, strict=True):
            if text.endswith("comes again"):
                with self.lock:
                    first = self.first_vectors.setdefault(text, vector.copy())
                if np.abs(first - vector).max() > TOLERANCE:
                    self.failures.append(f"{kind}: {text!r} has another vector: {np.abs(first - vector).max()}")

    def http(self, chance: random.Random) -> None:
        """Send valid requests over HTTP."""
        with httpx.Client(base_url=self.server.http, timeout=60) as client:
            while self.running():
                texts = self.texts(chance)
                route = chance.choice(["/v1/embeddings", "/embed", "/v2/embed"])
                body: dict[str, Any] = {
                    "/v1/embeddings": {"model": "bench", "input": texts, "encoding_format": "base64"},
                    "/embed": {"inputs": texts, "truncate": True},
                    "/v2/embed": {"model": "bench", "texts": texts, "input_type": "search_document"},
                }[route]
                answer = client.post(route, json=body)
                if answer.status_code != 200:
                    self.failures.append(f"{route}: {answer.status_code} {answer.text[:300]}")
                    continue
                content = answer.json()
                if route == "/embed":
                    vectors = np.array(content, np.float32)
                elif route == "/v2/embed":
                    vectors = np.array(content["embeddings"]["float"], np.float32)
                else:
                    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in content["data"]]
                    vectors = np.stack(rows)
                self.check(route, texts, vectors)

    def flight(self, chance: random.Random) -> None:
        """Send valid streams over Flight."""
        with fl.connect(self.server.flight) as client:
            while self.running():
                batches = [self.texts(chance) for _ in range(chance.randint(1, 6))]
                writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
                with writer:
                    writer.begin(pa.schema({"text": pa.string()}))
                    for texts in batches:
                        writer.write_batch(pa.record_batch({"text": texts}))
                        column = reader.read_chunk().data.column("vector")
                        vectors = column.flatten().to_numpy().reshape(len(texts), -1)
                        self.check("flight", texts, vectors)
                    writer.done_writing()

    def leave(self, chance: random.Random) -> None:
        """Send requests, and close the connection before the answer."""
        while self.running():
            body = json.dumps({"model": "bench", "input": self.texts(chance)}).encode()
            with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
                connection.sendall(
                    b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
                    + (body if chance.random() < 0.7 else body[: len(body) // 2])
                )
                time.sleep(chance.random() * 0.1)
            self.counts["left"] += 1
            time.sleep(0.1)

    def leave_flight(self, chance: random.Random) -> None:
        """Start streams, and end them early."""
        while self.running():
            with fl.connect(self.server.flight) as client:
                writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
                writer.begin(pa.schema({"text": pa.string()}))
                for _ in range(chance.randint(1, 3)):
                    writer.write_batch(pa.record_batch({"text": self.texts(chance)}))
                if chance.random() < 0.5:
                    reader.cancel()
                del writer, reader
            self.counts["left flight"] += 1
            time.sleep(0.5)

    def bad(self, chance: random.Random) -> None:
        """Send invalid bodies."""
        with httpx.Client(base_url=self.server.http, timeout=60) as client:
            while self.running():
                route, body = chance.choice(BAD)
                status = client.post(route, content=body).status_code
                self.counts[f"bad {status}"] += 1
                if not 400 <= status < 500:
                    self.failures.append(f"{route} {body!r}: {status}")
                time.sleep(0.05)

    def swap(self, seconds: float) -> None:
        """Exchange the model."""
        with httpx.Client(base_url=self.server.http, timeout=120) as client:
            while self.running():
                time.sleep(min(seconds, max(self.until - time.monotonic(), 0.0)))
                body = {"path": self.artifact, "name": "bench"}
                answer = client.post("/admin/models", json=body)
                self.counts["swaps"] += 1
                if answer.status_code != 200:
                    self.failures.append(f"an exchange: {answer.status_code} {answer.text[:300]}")


def main() -> None:
    """Run the benchmark, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--clients", type=int, default=4, help="clients with valid requests, half of them over Flight")
    parser.add_argument("--swap-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with serving(options.artifact, "--provider", "mlas") as server:
        soak = Soak(server, options.artifact, time.monotonic() + options.seconds)
        works: list[Callable[[], None]] = [lambda: soak.swap(options.swap_seconds)]
        for number in range(options.clients):
            good = soak.flight if number % 2 else soak.http
            works.append(lambda good=good, number=number: good(random.Random(options.seed + number)))  # type: ignore[misc]
        for work in (soak.leave, soak.leave_flight, soak.bad):
            works.append(lambda work=work: work(random.Random(options.seed)))  # type: ignore[misc]

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 (any error of a client is a failure)
                soak.failures.append(f"a client ended: {type(error).__name__}: {str(error)[:300]}")

        with MemoryWatch(server) as memory:
            threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        metrics = httpx.get(f"{server.http}/metrics").text
        exit_code = server.stop()
        errors = sum(line["level"] == "error" for line in server.log_lines())
    open_requests = next(
        float(line.split()[1]) for line in metrics.splitlines() if line.startswith("fletcher_open_requests ")
    )
    result = {
        "seconds": options.seconds,
        "counts": dict(sorted(soak.counts.items())),
        "failures": len(soak.failures),
        "memory_mb": [round(value) for value in memory.megabytes[:: max(len(memory.megabytes) // 12, 1)]],
        "memory_growth": round(memory.growth(), 4),
        "open_requests_at_the_end": open_requests,
        "errors_in_the_log": errors,
        "exit_code": exit_code,
    }
    print(json.dumps(result, indent=2))
    if soak.failures or memory.growth() > 0.05 or open_requests or exit_code or errors:
        print("\n".join(soak.failures[:20]), file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
