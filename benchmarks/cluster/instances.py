"""Three instances behind HAProxy over one instance behind HAProxy, with compute simulated.

    python -m benchmarks.cluster.instances ARTIFACT [--rounds 3] [--seconds 8] [--json]

The session of each instance sleeps 20 ms for a text on each of two workers, so 100 texts a second are its capacity whatever
the processor does. A client with 48 connections sends requests of one text, in turn to one instance and to three.
"""

from __future__ import annotations

import argparse
import json
import statistics

from .running import haproxy, load, simulated

#: Simulated compute of a text in seconds, and the capacity of an instance with two workers, in texts per second.
SECONDS_A_TEXT = 0.02
CAPACITY = 2 / SECONDS_A_TEXT


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="folder of a small artifact")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 3: []}
    with simulated(options.artifact, 3, SECONDS_A_TEXT) as instances:
        ports = {f"s{number}": each.port for number, each in enumerate(instances)}
        with haproxy({"s0": ports["s0"]}) as one, haproxy(ports) as three:
            for number in range(options.rounds + 1):  # the first one warms up
                for count, balancer in ((1, one), (3, three)):
                    seconds = options.seconds if number else 1.0
                    found = load(balancer.port, options.connections, int(count * CAPACITY * seconds))
                    if number:
                        rates[count].append(found["requests"] / found["seconds"])
    ratios = [three / one for one, three in zip(rates[1], rates[3], strict=True)]
    result = {
        "one": statistics.median(rates[1]),
        "three": statistics.median(rates[3]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }
    if options.json:
        print(json.dumps(result))
        return
    print(f"one instance    {result['one']:7.1f} requests/s")
    print(f"three instances {result['three']:7.1f} requests/s")
    print(f"ratio           {result['ratio']:7.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
