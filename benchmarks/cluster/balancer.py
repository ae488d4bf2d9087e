"""HAProxy in front of one server: CPU of a request and latency above those of the server alone.

    python -m benchmarks.cluster.balancer ARTIFACT [--rounds 5] [--requests 3000] [--json]

One server runs, with HAProxy in front of it. A client in a process of its own sends requests of one short text, in turn to
the server and to HAProxy: over 64 kept connections for the CPU time, of both processes together, and over one connection for
the latency. The differences are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

from benchmarks.serve.running import serving

from .running import haproxy, load


def main() -> None:
    """Measure, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    alone: list[tuple[float, float]] = []
    behind: list[tuple[float, float]] = []
    shares: list[float] = []
    with (
        serving(options.artifact, "--flight", "off", "--fronts", "0", "--max-connections-per-address", "500") as server,
        haproxy({"a": server.port}) as balancer,
    ):

        def cpu() -> float:
            return server.cpu_seconds() + balancer.cpu_seconds()

        for number in range(options.rounds + 1):  # the first one warms up
            own = balancer.cpu_seconds()
            pairs = [measure(port, cpu, options) for port in (server.port, balancer.port)]
            own = balancer.cpu_seconds() - own
            if number:
                alone.append(pairs[0])
                behind.append(pairs[1])
                shares.append(1000 * own / (options.requests + options.requests // 3))
    more_cpu = [b[0] - a[0] for a, b in zip(alone, behind, strict=True)]
    more_p50 = [b[1] - a[1] for a, b in zip(alone, behind, strict=True)]
    result = {
        "cpu_ms_alone": statistics.median(each[0] for each in alone),
        "cpu_ms_above": statistics.median(more_cpu),
        "cpu_ms_of_haproxy": statistics.median(shares),
        "p50_ms_alone": statistics.median(each[1] for each in alone),
        "p50_ms_above": statistics.median(more_p50),
        "rounds": {"cpu_ms_above": more_cpu, "p50_ms_above": more_p50},
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"{'':24}{'server alone':>14}{'HAProxy above it':>18}")
    cpu_range = f"{min(more_cpu):.3f} to {max(more_cpu):.3f}"
    p50_range = f"{min(more_p50):.3f} to {max(more_p50):.3f}"
    print(f"{'CPU of a request, ms':24}{result['cpu_ms_alone']:14.3f}{result['cpu_ms_above']:18.3f}  ({cpu_range})")
    print(f"{'p50, 1 connection, ms':24}{result['p50_ms_alone']:14.3f}{result['p50_ms_above']:18.3f}  ({p50_range})")
    print(f"HAProxy's own process took {result['cpu_ms_of_haproxy']:.3f} ms of CPU a request")


def measure(port: int, cpu: Callable[[], float], options: argparse.Namespace) -> tuple[float, float]:
    """Return milliseconds of CPU a request over many connections, and the p50 in milliseconds over one."""
    before = cpu()
    found = load(port, options.connections, options.requests)
    used = 1000 * (cpu() - before) / found["requests"]
    return used, load(port, 1, options.requests // 3)["p50_ms"]


if __name__ == "__main__":
    main()
