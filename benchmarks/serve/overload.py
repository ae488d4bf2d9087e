"""Overload: ten times as many requests as the server can compute, for a minute.

    python benchmarks/serve/overload.py ARTIFACT [--seconds 60] [--factor 10] [--queue-seconds 1] [--texts 16]

1. A closed load (64 clients) measures the server's capacity, and one client measures the latency of a lone request.
2. An open load from another process sends FACTOR times the capacity for SECONDS; each request has TEXTS texts.
3. One client sends requests one after the other from the end of the load.

The exit status is 1 if an answer is neither 200 nor 429, a 429 has no Retry-After, the 99th percentile of the accepted
requests exceeds twice the queue's time, the memory in the last quarter exceeds that in the second by more than 5 %, or
the latency of a lone request a second after the load exceeds one and a half times the latency before. A run takes about
two minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from running import MemoryWatch, percentile, serving

HERE = Path(__file__).parent
WORDS = "The quick brown fox jumps over the lazy dog and runs away into the deep dark wood, number ########."


def closed(port: int, body: str, connections: int, requests: int) -> dict[str, float]:
    """Measure rate and latency of a closed load."""
    command = [sys.executable, str(HERE / "load.py"), str(port), "--body", body]
    command += ["--requests", str(requests), "--connections", str(connections)]
    figures: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return figures


def open_load(port: int, body: str, rate: float, seconds: float) -> subprocess.Popen[str]:
    """Start an open load."""
    command = [sys.executable, str(HERE / "open_load.py"), str(port), "--body", body]
    return subprocess.Popen(
        [*command, "--rate", str(rate), "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True
    )


def main() -> None:
    """Run the benchmark, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--queue-seconds", type=float, default=1.0)
    parser.add_argument("--texts", type=int, default=16)
    options = parser.parse_args()
    texts = [f"{number} {WORDS}" for number in range(options.texts)]
    body = json.dumps({"input": texts, "model": "bench", "encoding_format": "base64"})
    with serving(options.artifact) as server:  # its queue accepts all requests of 64 clients
        closed(server.port, body, 8, 64)
        most = closed(server.port, body, 64, 256)
        rate = most["requests"] / most["seconds"]
    with serving(options.artifact, "--queue-seconds", str(options.queue_seconds)) as server:
        closed(server.port, body, 1, 20)
        lone = closed(server.port, body, 1, 40)
        with MemoryWatch(server) as memory:
            load = open_load(server.port, body, options.factor * rate, options.seconds)
            time.sleep(options.seconds)
        stopped = time.perf_counter()
        after: list[tuple[float, float]] = []
        while time.perf_counter() - stopped < 4.0:
            at = time.perf_counter() - stopped
            try:
                after.append((at, closed(server.port, body, 1, 5)["p50_ms"]))
            except subprocess.CalledProcessError:
                after.append((at, float("inf")))  # the request was refused
        assert load.stdout is not None
        answers = json.load(load.stdout)
        load.wait()
    print(json.dumps(judge(answers, lone, rate, memory, after, options), indent=2))


def judge(
    answers: list[tuple[float, float, int, bool]],
    lone: dict[str, float],
    rate: float,
    memory: MemoryWatch,
    after: list[tuple[float, float]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return the figures and the failed checks; end the process if there is one."""
    accepted = [milliseconds for _, milliseconds, status, _ in answers if status == 200]
    statuses = Counter(status for _, _, status, _ in answers)
    recovered = [milliseconds for at, milliseconds in after if at >= 1.0]
    result = {
        "capacity_requests_per_s": round(rate, 1),
        "sent": len(answers),
        "sent_per_s": round(len(answers) / options.seconds, 1),
        "statuses": dict(statuses),
        "accepted_p50_ms": round(percentile(accepted, 0.5), 1),
        "accepted_p99_ms": round(percentile(accepted, 0.99), 1),
        "refused_p99_ms": round(percentile([ms for _, ms, status, _ in answers if status == 429], 0.99), 1),
        "memory_mb": [round(min(memory.megabytes), 1), round(max(memory.megabytes), 1)],
        "memory_growth": round(memory.growth(), 4),
        "lone_p50_ms": round(lone["p50_ms"], 2),
        "lone_p50_ms_a_second_after": round(statistics.median(recovered), 2),
    }
    wrong = {
        "other statuses": bool(set(statuses) - {200, 429}),
        "no request was accepted": not accepted,
        "no request was refused": not statuses[429],
        "a refusal has no Retry-After": any(s == 429 and not has_retry_after for _, _, s, has_retry_after in answers),
        "accepted requests waited too long": percentile(accepted, 0.99) > 2000 * options.queue_seconds,
        "memory grew": memory.growth() > 0.05,
        "latency did not recover": statistics.median(recovered) > 1.5 * lone["p50_ms"],
    }
    result["wrong"] = [check for check, failed in wrong.items() if failed]
    if result["wrong"]:
        print(json.dumps(result, indent=2))
        sys.exit(1)
    return result


if __name__ == "__main__":
    main()
