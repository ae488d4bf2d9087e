"""Ray Serve in front of Fletcher: CPU of a request and latency above those of the server alone, and a killed replica.

    python -m benchmarks.cluster.ray_serve ARTIFACT [--rounds 5] [--requests 3000] [--kill-seconds 20] [--json]

One server runs, and beside it a cluster on this machine with a replica of the same model behind HAProxy. A client in a
process of its own sends requests of one short text, in turn to both: over 64 kept connections for the CPU time, over one for
the latency. The CPU time of the cluster is that of all its processes less what they use without requests. The differences
are medians of the rounds.

Then a cluster with two replicas answers a load, and one replica is killed (SIGKILL). The share of failed requests counts
from the kill to the end; the replica is back when two processes answer again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.serve.running import Running, serving

from .ray_running import Deployed, deployed

#: Seconds after which a killed replica counts as lost.
BACK_SECONDS = 90.0

BODY = json.dumps({"model": "bench", "input": "a text of ########", "encoding_format": "base64"})


def main() -> None:
    """Measure, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--kill-seconds", type=float, default=20.0, help="seconds after the kill; 0 leaves this part out"
    )
    parser.add_argument("--provider", default="mlas")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, object] = compare(options)
    if options.kill_seconds:
        result |= kill_replica(options)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'':24}{'server alone':>14}{'Ray Serve above it':>20}")
    for name, word in (("cpu_ms", "CPU of a request, ms"), ("p50_ms", "p50, 1 connection, ms")):
        rounds = result[f"{name}_rounds"]
        assert isinstance(rounds, list)
        spread = f"{min(rounds):.3f} to {max(rounds):.3f}"
        print(f"{word:24}{result[f'{name}_alone']:14.3f}{result[f'{name}_above']:20.3f}  ({spread})")
    print(f"the cluster uses {result['idle_cpu']:.1%} of a core without requests")
    if options.kill_seconds:
        print(
            f"a killed replica: {result['failed']} of {result['answered']} requests failed ({result['failed_share']:.2%}), "
            f"statuses {result['statuses']}; two replicas again after {result['back_seconds']:.1f} s"
        )


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Return CPU time and latency of the server alone, and what Ray Serve adds."""
    alone: list[tuple[float, float]] = []
    behind: list[tuple[float, float]] = []
    arguments = ("--flight", "off", "--fronts", "0", "--max-connections-per-address", "500", "--cache", "0")
    arguments += ("--provider", options.provider, "--workers", str(options.workers))
    with (
        serving(options.artifact, *arguments) as server,
        deployed(options.artifact, replicas=1, cpus=1, provider=options.provider, workers=options.workers) as cluster,
    ):
        idle = idle_cpu(cluster)
        for number in range(options.rounds + 1):  # the first one warms up
            pairs = [measure(server, 0.0, options), measure(cluster, idle, options)]
            if number:
                alone.append(pairs[0])
                behind.append(pairs[1])
    result: dict[str, object] = {"idle_cpu": idle}
    for place, name in enumerate(("cpu_ms", "p50_ms")):
        more = [b[place] - a[place] for a, b in zip(alone, behind, strict=True)]
        result[f"{name}_alone"] = statistics.median(each[place] for each in alone)
        result[f"{name}_above"] = statistics.median(more)
        result[f"{name}_rounds"] = more
    return result


def idle_cpu(cluster: Deployed, seconds: float = 4.0) -> float:
    """Return the cores that a cluster uses without requests."""
    time.sleep(2)
    before = cluster.cpu_seconds()
    time.sleep(seconds)
    return (cluster.cpu_seconds() - before) / seconds


def measure(server: Running | Deployed, idle: float, options: argparse.Namespace) -> tuple[float, float]:
    """Return milliseconds of CPU a request over many connections, and the p50 in milliseconds over one."""
    before, started = server.cpu_seconds(), time.monotonic()
    found = load(server.port, options.connections, options.requests)
    used = server.cpu_seconds() - before - idle * (time.monotonic() - started)
    return 1000 * used / found["requests"], load(server.port, 1, options.requests // 3)["p50_ms"]


def load(port: int, connections: int, requests: int) -> dict[str, float]:
    """Send requests of one short text from another process, and return their number, seconds and latencies."""
    script = Path(__file__).parents[1] / "serve" / "load.py"
    command = [sys.executable, str(script), str(port), "--body", BODY]
    command += ["--connections", str(connections), "--requests", str(requests)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def kill_replica(options: argparse.Namespace) -> dict[str, object]:
    """Return the share of failed requests after one of two replicas was killed, and the seconds until it was back."""
    with deployed(
        options.artifact, replicas=2, cpus=0.5, provider=options.provider, workers=options.workers
    ) as cluster:
        statuses: Counter[int] = Counter()
        counting, ended = threading.Event(), threading.Event()
        clients = [threading.Thread(target=ask, args=(cluster.port, statuses, counting, ended)) for _ in range(8)]
        for client in clients:
            client.start()
        time.sleep(3)
        before = cluster.replicas()
        counting.set()
        killed = time.monotonic()
        os.kill(before[0], signal.SIGKILL)
        back = float("inf")
        while (passed := time.monotonic() - killed) < (BACK_SECONDS if back == float("inf") else options.kill_seconds):
            time.sleep(0.2)
            if back == float("inf") and len(answering(cluster, before[0])) >= 2:
                back = time.monotonic() - killed
            if passed > options.kill_seconds:
                counting.clear()
        ended.set()
        for client in clients:
            client.join()
    answered = statuses.total()
    failed = answered - statuses[200]
    return {
        "answered": answered,
        "failed": failed,
        "failed_share": failed / max(answered, 1),
        "statuses": {str(status): count for status, count in statuses.items()},
        "back_seconds": back,
    }


def answering(cluster: Deployed, killed: int) -> list[int]:
    """Return the ports of the replicas that are ready."""
    if killed in cluster.replicas():
        return []
    first, last = cluster.ports
    return [port for port in range(first, last + 1) if status_of(port, "GET", "/ready") == 200]


def status_of(port: int, method: str, path: str) -> int:
    """Return the status of one request; 0 if there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def ask(port: int, statuses: Counter[int], counting: threading.Event, ended: threading.Event) -> None:
    """Send requests over one connection until the end, and count the statuses; 0 is a broken connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"content-type": "application/json"}
    while not ended.is_set():
        try:
            connection.request("POST", "/v1/embeddings", BODY, headers)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except (OSError, http.client.HTTPException):
            status = 0
            connection.close()
        if counting.is_set():
            statuses[status] += 1
    connection.close()


if __name__ == "__main__":
    main()
