"""Throughput and latency of Fletcher and infinity: 64 clients, one short text per request, on the same machine, in turns.

    python benchmarks/serve/peers.py ARTIFACT CHECKPOINT INFINITY [--engine torch] [--requests 2000] [--rounds 3]

CHECKPOINT is the folder of the same model for infinity; `--engine optimum` needs `onnx/model.onnx` in it, which
benchmarks/cpu/prepare.py writes. INFINITY is the `infinity_emb` command of a separate environment, with torch for the CPU
and

    pip install 'infinity-emb[server,torch,optimum]' 'transformers<4.50' 'optimum[onnxruntime]<1.25' 'click<8.2' 'pyarrow<22'

Both servers run during the measurement, and the load goes to one at a time, from another process, over OpenAI's API
with floats in base64. Their vectors are compared first. A run takes about three minutes.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from running import serving

LOAD = Path(__file__).parent / "load.py"
TEXT = "The quick brown fox jumps over dog ########."

#: Time limit for the start of infinity, which loads torch, in seconds.
START_SECONDS = 180.0


@contextmanager
def infinity(command: str, checkpoint: str, engine: str) -> Iterator[int]:
    """Start infinity on a free port of the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["v2", "--model-id", checkpoint, "--served-model-name", "bench", "--engine", engine, "--device", "cpu"]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--no-model-warmup", "--log-level", "error"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen([command, *arguments], env=environment, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                ask(port, "/embeddings", "warm")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("infinity did not start") from None
                time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def ask(port: int, path: str, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return one vector."""
    body = json.dumps({"input": text, "model": "bench", "encoding_format": "base64"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.frombuffer(base64.b64decode(json.load(answer)["data"][0]["embedding"]), np.float32)


def load(port: int, path: str, clients: int, requests: int) -> dict[str, float]:
    """Measure rate and latency of a load from a separate process."""
    body = json.dumps({"input": TEXT, "model": "bench", "encoding_format": "base64"})
    command = [sys.executable, str(LOAD), str(port), "--path", path, "--body", body]
    command += ["--requests", str(requests), "--connections", str(clients)]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        "rate": round(figures["requests"] / figures["seconds"], 1),
        "p50_ms": round(figures["p50_ms"], 1),
        "p99_ms": round(figures["p99_ms"], 1),
    }


def main() -> None:
    """Run the benchmark, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("checkpoint")
    parser.add_argument("infinity")
    parser.add_argument("--engine", default="torch", choices=["torch", "optimum"])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--provider", default="auto", help="provider of Fletcher")
    options = parser.parse_args()
    with (
        serving(options.artifact, "--provider", options.provider) as server,
        infinity(options.infinity, options.checkpoint, options.engine) as port,
    ):
        servers = {"fletcher": (server.port, "/v1/embeddings"), "infinity": (port, "/embeddings")}
        ours, theirs = (ask(*address, "a text that both must agree about") for address in servers.values())
        cosine = float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for number in range(options.rounds + 1):  # the first one is not counted
            for name, address in servers.items():
                figures = load(*address, options.clients, options.requests if number else options.requests // 4)
                if number:
                    rounds[name].append(figures)
    pairs = list(zip(rounds["fletcher"], rounds["infinity"], strict=True))
    result = {
        "engine": options.engine,
        "cosine": cosine,
        **rounds,
        "rate_ratio": round(statistics.median(a["rate"] / b["rate"] for a, b in pairs), 2),
        "p99_ratio": round(statistics.median(a["p99_ms"] / b["p99_ms"] for a, b in pairs), 2),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
