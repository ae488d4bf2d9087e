"""Throughput of HTTP and Flight relative to the engine alone, in turns.

    python benchmarks/serve/throughput.py ARTIFACT [--clients 64] [--seconds 4] [--rounds 3]

- `engine`: the engine alone in a process, one short text per request, with as many requests in flight as clients.
- `http`: a server and a load from another process, the same requests on /v1/embeddings, as floats in base64.
- `engine_256`, `flight_256`: 256 texts per request, four in flight, answers taken in order; over Flight as one stream.

Each pair sends the same texts in the same number of requests, made before the clock starts. The clock runs from the first
request to the last answer. All texts differ, and the cache of vectors is off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
from running import serving

from fletcher.runtime.inputs import Texts
from fletcher.serve.engine.embed_request import EmbedRequest

TEXT = "The quick brown fox jumps over dog {:08}."
LOAD = Path(__file__).parent / "load.py"
BATCH, AHEAD = 256, 4


def texts_of(count: int, size: int) -> list[list[str]]:
    """Return requests of different texts."""
    return [[TEXT.format(number) for number in range(start, start + size)] for start in range(0, count * size, size)]


def engine_rate(engine: Any, requests: list[list[str]], ahead: int) -> float:
    """Return the texts per second with `ahead` requests in flight and answers taken in order."""
    waiting: deque[Future[Any]] = deque()
    started = time.perf_counter()
    for texts in requests:
        if len(waiting) == ahead:
            waiting.popleft().result()
        waiting.append(engine.submit(EmbedRequest(Texts(tuple(texts)))))
    for future in waiting:
        future.result()
    return sum(map(len, requests)) / (time.perf_counter() - started)


def clients_rate(engine: Any, requests: list[list[str]], clients: int) -> float:
    """Return the texts per second of clients that each send the next request after their answer."""
    left, ended = iter(requests), threading.Semaphore(0)

    def send(_: Future[Any] | None = None) -> None:
        texts = next(left, None)
        if texts is None:
            ended.release()
        else:
            engine.submit(EmbedRequest(Texts(tuple(texts)))).add_done_callback(send)

    started = time.perf_counter()
    for _ in range(clients):
        send()
    for _ in range(clients):
        ended.acquire()
    return sum(map(len, requests)) / (time.perf_counter() - started)


def serve_engine(artifact: str) -> None:
    """Run as the process of the engine alone, which measures once for each line of its standard input."""
    from fletcher import Encoder
    from fletcher.serve.engine.engine import Engine

    with Encoder.load(artifact, provider="mlas", cache=0) as encoder, Engine(encoder) as engine:
        for line in sys.stdin:
            count, size, ahead = map(int, line.split())
            requests = texts_of(count, size)
            rate = clients_rate if size == 1 else engine_rate
            print(rate(engine, requests, ahead), flush=True)


def http_load(url: str, clients: int, requests: int) -> dict[str, float]:
    """Measure rate and latency of a load from a separate process."""
    body = json.dumps({"input": TEXT.replace("{:08}", "########"), "model": "bench", "encoding_format": "base64"})
    command = [sys.executable, str(LOAD), url.rpartition(":")[2], "--body", body]
    done = subprocess.run(
        [*command, "--requests", str(requests), "--connections", str(clients)],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures | {"rate": figures["requests"] / figures["seconds"]}


def flight_rate(url: str, batches: int) -> float:
    """Return the texts per second of one stream."""
    parts = [pa.record_batch({"text": texts}) for texts in texts_of(batches, BATCH)]
    with fl.connect(url) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"))
        started = time.perf_counter()
        with writer:
            writer.begin(parts[0].schema)
            for part in parts[:AHEAD]:
                writer.write_batch(part)
            for part in parts[AHEAD:]:
                reader.read_chunk()
                writer.write_batch(part)
            writer.done_writing()
            while True:
                try:
                    reader.read_chunk()
                except StopIteration:
                    break
        return batches * BATCH / (time.perf_counter() - started)


def main() -> None:
    """Run the benchmark, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        serve_engine(options.artifact)
        return
    alone = subprocess.Popen(
        [sys.executable, __file__, options.artifact, "--engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert alone.stdin is not None and alone.stdout is not None

    def ask(count: int, size: int, ahead: int) -> float:
        print(count, size, ahead, file=alone.stdin, flush=True)
        return float(alone.stdout.readline())  # type: ignore[union-attr]

    texts_per_s: dict[str, list[float]] = {}
    latency: list[dict[str, float]] = []
    try:
        with serving(options.artifact, "--provider", "mlas") as server:
            requests, batches = 500, 8  # the first round is not counted, and sets the number of requests
            for number in range(options.rounds + 1):
                rates = {"engine": ask(requests, 1, options.clients), "engine_256": ask(batches, BATCH, AHEAD)}
                figures = http_load(server.http, options.clients, requests)
                rates |= {"http": figures["rate"], "flight_256": flight_rate(server.flight, batches)}
                if number:
                    latency.append(figures)
                    for name, rate in rates.items():
                        texts_per_s.setdefault(name, []).append(round(rate, 1))
                else:
                    requests = max(int(rates["engine"] * options.seconds), 500)
                    batches = max(int(rates["engine_256"] * options.seconds / BATCH), 2 * AHEAD)
    finally:
        alone.stdin.close()
        alone.wait(30)
    ratios = {
        "http_of_engine": [a / b for a, b in zip(texts_per_s["http"], texts_per_s["engine"], strict=True)],
        "flight_of_engine": [a / b for a, b in zip(texts_per_s["flight_256"], texts_per_s["engine_256"], strict=True)],
    }
    result = {
        "texts_per_s": texts_per_s,
        "http_p99_ms": [round(figures["p99_ms"], 2) for figures in latency],
        **{name: {"median": round(statistics.median(values), 3), "all": values} for name, values in ratios.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
