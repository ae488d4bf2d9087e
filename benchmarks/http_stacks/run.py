"""CPU time and throughput of HTTP stacks with many concurrent requests of one text.

    python benchmarks/http_stacks/run.py [--rounds 5] [--requests 5000] [--connections 64] [--json FILE]

Each candidate is a server in a separate process on the loopback, and a load process sends one short text per request.
Rounds are interleaved, so other load on the machine affects all candidates. The report gives the CPU time of the server
processes per request (user and system, children included) and the requests per second, as medians and as ratios to the
first candidate in the same round. The benchmark needs `.[cpu,serve,dev]`, and `pip install starlette granian litestar`
for the candidates that Fletcher does not use; a candidate without its package is skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Candidate:
    """`Candidate`: a server and its application."""

    name: str
    command: tuple[str, ...]
    packages: tuple[str, ...]


CANDIDATES = (
    Candidate("uvicorn, bare ASGI", ("uvicorn", "bare"), ("uvicorn",)),
    Candidate("uvicorn, Starlette", ("uvicorn", "starlette"), ("uvicorn", "starlette")),
    Candidate("uvicorn, Litestar", ("uvicorn", "litestar"), ("uvicorn", "litestar")),
    Candidate("Granian, bare ASGI, uvloop", ("granian", "bare", "uvloop"), ("granian",)),
    Candidate("Granian, bare ASGI, rloop", ("granian", "bare", "rloop"), ("granian", "rloop")),
    Candidate("Granian, Starlette, uvloop", ("granian", "starlette", "uvloop"), ("granian", "starlette")),
    Candidate("uvicorn, Fletcher's app and engine", ("uvicorn", "fletcher"), ("uvicorn",)),
    Candidate("Granian, Fletcher's app and engine", ("granian", "fletcher", "uvloop"), ("granian",)),
)


@dataclass(frozen=True, slots=True)
class Round:
    """`Round`: the figures of one candidate in one round."""

    cpu_ms: float
    per_second: float
    p50_ms: float
    p99_ms: float


def free_port() -> int:
    """Return a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def start(candidate: Candidate) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server process, and return it with its port when it accepts connections."""
    port = free_port()
    stack, app, *loops = candidate.command
    process = subprocess.Popen([sys.executable, str(HERE / "apps.py"), stack, app, str(port), *loops])
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"{candidate.name} did not start")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return process, port
    raise SystemExit(f"{candidate.name} does not listen")


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and its live children."""
    times = [member.cpu_times() for member in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def measure(process: psutil.Process, port: int, connections: int, requests: int) -> Round:
    """Measure one round of a candidate."""
    before = cpu_seconds(process)
    command = [
        sys.executable,
        str(HERE / "load.py"),
        str(port),
        f"--connections={connections}",
        f"--requests={requests}",
    ]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)
    used = cpu_seconds(process) - before
    return Round(1000 * used / requests, requests / result["seconds"], result["p50_ms"], result["p99_ms"])


def main() -> None:
    """Run all candidates in interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=5000, help="requests per candidate and round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", type=Path, help="file for the figures of every round")
    options = parser.parse_args()
    candidates = [each for each in CANDIDATES if all(map(importlib.util.find_spec, each.packages))]
    servers: list[subprocess.Popen[bytes]] = []
    rounds: dict[str, list[Round]] = {each.name: [] for each in candidates}
    try:
        ports = []
        for each in candidates:
            server, port = start(each)
            servers.append(server)
            ports.append(port)
        for number in range(options.rounds + 1):
            for each, server, port in zip(candidates, servers, ports, strict=True):
                requests = options.requests if number else options.requests // 5
                result = measure(psutil.Process(server.pid), port, options.connections, requests)
                if number:  # round 0 is not counted
                    rounds[each.name].append(result)
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(30)
    report(rounds, options)


def report(rounds: dict[str, list[Round]], options: argparse.Namespace) -> None:
    """Print a table of the medians, and write the figures of every round if `--json` is set."""
    reference = next(iter(rounds.values()))
    table = Table("stack", "CPU ms/request", "ratio", "requests/s", "ratio", "p50 ms", "p99 ms")
    for name, results in rounds.items():
        pairs = list(zip(results, reference, strict=True))
        table.add_row(
            name,
            f"{statistics.median(each.cpu_ms for each in results):.3f}",
            f"{statistics.median(each.cpu_ms / first.cpu_ms for each, first in pairs):.2f}",
            f"{statistics.median(each.per_second for each in results):.0f}",
            f"{statistics.median(each.per_second / first.per_second for each, first in pairs):.2f}",
            f"{statistics.median(each.p50_ms for each in results):.1f}",
            f"{statistics.median(each.p99_ms for each in results):.1f}",
        )
    Console().print(table)
    if options.json is not None:
        document = {
            "python": platform.python_version(),
            "processors": psutil.cpu_count(),
            "connections": options.connections,
            "requests": options.requests,
            "rounds": {name: [asdict(each) for each in results] for name, results in rounds.items()},
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
