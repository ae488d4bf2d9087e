"""How much of the engine's own throughput reaches clients: HTTP with many of them, and Flight in batches; in turns.

    python benchmarks/serve/throughput.py ARTEFACT [--clients 64] [--seconds 4] [--rounds 3]

- `engine`: the engine alone in a process, one short text a request, as many under way as there are clients.
- `http`: a server and a load from another process, the same requests on /v1/embeddings, as floats in base64.
- `engine_256`, `flight_256`: the same with 256 texts a request, four under way; over Flight as one stream.

No two texts are equal, and the cache of vectors is off.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

TEXT = "The quick brown fox jumps over dog {:08}."
LOAD = Path(__file__).parent / "load.py"
BATCH, AHEAD = 256, 4


def engine_rate(engine: Any, texts: int, ahead: int, seconds: float) -> float:
    """Texts a second, `ahead` requests of `texts` texts under way."""
    numbers, answers = itertools.count(), queue.SimpleQueue[Future[Any]]()

    def send() -> None:
        engine.submit([TEXT.format(next(numbers)) for _ in range(texts)]).add_done_callback(answers.put)

    for _ in range(ahead):
        send()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        answers.get().result()
        done += texts
        send()
    rate = done / (time.perf_counter() - started)
    for _ in range(ahead):
        answers.get().result()
    return rate


def serve_engine(artefact: str, seconds: float) -> None:
    """The process that has the engine alone: measures whenever a line on its standard input says so."""
    from fletcher import Encoder
    from fletcher.serve.engine import Engine

    with Encoder.load(artefact, provider="mlas", cache_bytes=0) as encoder, Engine(encoder) as engine:
        for line in sys.stdin:
            texts, ahead = map(int, line.split())
            print(engine_rate(engine, texts, ahead, seconds), flush=True)


def http_load(url: str, clients: int, requests: int) -> dict[str, float]:
    """Rate and latency of a load from a process of its own."""
    body = json.dumps({"input": TEXT.replace("{:08}", "########"), "model": "bench", "encoding_format": "base64"})
    command = [sys.executable, str(LOAD), url.rpartition(":")[2], "--body", body]
    done = subprocess.run(
        [*command, "--requests", str(requests), "--connections", str(clients)],
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told | {"rate": told["requests"] / told["seconds"]}


def flight_rate(url: str, batches: int) -> float:
    """Texts a second of one stream."""
    numbers = itertools.count()
    parts = [pa.record_batch({"text": [TEXT.format(next(numbers)) for _ in range(BATCH)]}) for _ in range(batches)]
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
    """Runs the benchmark and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefact")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        serve_engine(options.artefact, options.seconds)
        return
    alone = subprocess.Popen(
        [sys.executable, __file__, options.artefact, "--engine", "--seconds", str(options.seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    run = ["run", options.artefact, "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--name", "bench"]
    run += ["--provider", "mlas", "--cache", "0", "--json"]
    server = subprocess.Popen(
        [sys.executable, "-c", "from fletcher.serve.cli import main; main()", *run],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None and alone.stdin is not None and alone.stdout is not None

    def ask(texts: int, ahead: int) -> float:
        print(texts, ahead, file=alone.stdin, flush=True)
        return float(alone.stdout.readline())  # type: ignore[union-attr]

    found: dict[str, list[float]] = {}
    latency: list[dict[str, float]] = []
    try:
        urls = json.loads(server.stdout.readline())
        for number in range(options.rounds + 1):  # the first warms up, and says how much there is to send
            rates = {"engine": ask(1, options.clients), "engine_256": ask(BATCH, AHEAD)}
            told = http_load(urls["http"], options.clients, max(int(rates["engine"] * options.seconds), 500))
            batches = max(int(rates["engine_256"] * options.seconds / BATCH), 8)
            rates |= {"http": told["rate"], "flight_256": flight_rate(urls["flight"], batches)}
            if number:
                latency.append(told)
                for name, rate in rates.items():
                    found.setdefault(name, []).append(round(rate, 1))
    finally:
        alone.stdin.close()
        alone.wait(30)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    ratios = {
        "http_of_engine": [a / b for a, b in zip(found["http"], found["engine"], strict=True)],
        "flight_of_engine": [a / b for a, b in zip(found["flight_256"], found["engine_256"], strict=True)],
    }
    result = {
        "texts_per_s": found,
        "http_p99_ms": [round(told["p99_ms"], 2) for told in latency],
        **{name: {"median": round(statistics.median(values), 3), "all": values} for name, values in ratios.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
