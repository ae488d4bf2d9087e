"""Nodes, GPUs, balancers, network and cost for 10,000 requests a second and for 10 billion texts a day, on paper.

    python -m benchmarks.cluster.simulation [--json]

Measured figures (measured.py) give the times of the parts of a server; a discrete-event simulation (events.py) gives
latencies and what breaks first; the rest is arithmetic on the measured figures and published prices. Nothing is measured
here, and the output is the same on every machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .events import Costs, Result, Site, closed_load, open_load
from .measured import API, BULK, DAY_TEXTS, HAPROXY_MS, RENTAL, ROWS, Bulk

#: Requests per second of the first question.
RATE: Final = 10_000

#: Cores for fronts of the measured machine with 16 cores: its other ones had the engine process and the clients. With seven
#: the simulation gives the measured rates.
FRONT_CORES: Final = 7

#: Seconds of a request outside fronts, queue and batch at 64 connections: sockets, the channel, and scheduling.
WAY: Final = 1.2e-3

#: Simulated seconds.
SECONDS: Final = 0.5

#: Longest p99 that is accepted, in seconds.
ACCEPTED: Final = 0.015

#: Step of the rates in the search for the highest one, in requests per second.
STEP: Final = 1_000

#: Share of a node's capacity that is planned for.
PLANNED: Final = 0.7

#: Bytes of a request of one short text, and of its answer: JSON, headers, 384 numbers in base64.
REQUEST_BYTES: Final = 300
ANSWER_BYTES: Final = 4 * 384 * 4 // 3 + 400

#: Bytes of text for each token, and of a number of a vector.
TOKEN_BYTES: Final = 4.5
NUMBER_BYTES: Final = 4

#: Network of a node, and a copy of memory by one core, in bytes per second.
NETWORK: Final = 25e9 / 8
COPY: Final = 10e9


@dataclass(frozen=True, slots=True)
class Online:
    """`Online`: requests at a rate through a balancer to some nodes.

    Attributes:
        rate, nodes: the case.
        p50_ms, p99_ms: latency of the answers.
        batch: mean texts of a batch.
        fronts, balancer: busy cores of fronts on a node, and of the balancer.
    """

    rate: int
    nodes: int
    p50_ms: float
    p99_ms: float
    batch: float
    fronts: float
    balancer: float

    @classmethod
    def of(cls, rate: int, nodes: int, found: Result) -> Online:
        """Return the case from its simulation."""
        p50, p99 = (1e3 * found.percentile(share) for share in (0.5, 0.99))
        return cls(rate, nodes, p50, p99, found.batch, found.fronts, found.balancer)


@dataclass(frozen=True, slots=True)
class Daily:
    """`Daily`: texts of a day for one model.

    Attributes:
        name: the model and the length of its texts.
        gpus: GPUs at the planned share of their measured rate.
        cores: cores of the servers.
        network: bytes per second of texts and vectors, all GPUs together.
        stored: bytes of vectors of a day.
        dollars: rent of GPUs for a billion texts at the measured rate.
        api_dollars: price of a billion such texts of the API.
        copied: share of a core that a copy of one GPU's texts and vectors through the host's memory takes.
        bus: bytes per second between one GPU and its host.
    """

    name: str
    gpus: int
    cores: float
    network: float
    stored: float
    dollars: float
    api_dollars: float
    copied: float
    bus: float

    @classmethod
    def of(cls, bulk: Bulk) -> Daily:
        """Return the needs for a model."""
        each_second = DAY_TEXTS / 86_400
        gpus = math.ceil(each_second / (PLANNED * bulk.texts))
        vector = NUMBER_BYTES * bulk.dimension
        bus = bulk.texts * (4 * bulk.tokens + vector)  # token ids in, float32 vectors out
        return cls(
            name=bulk.name,
            gpus=gpus,
            cores=bulk.cores * each_second / bulk.texts,
            network=each_second * (TOKEN_BYTES * bulk.tokens + vector),
            stored=DAY_TEXTS * vector,
            dollars=1e9 / bulk.texts / 3600 * RENTAL.dollars,
            api_dollars=1e9 * bulk.tokens / 1e6 * API.dollars,
            copied=bus / COPY,
            bus=bus,
        )


def costs(*, balanced: bool) -> Costs:
    """Return the times of the parts, from the two measured rows.

    The engine process has a cost for each batch and one for each text; the two rows give both. Fronts have the other cores.
    """
    few, many = ROWS
    costs_of = [row.engine_cores / row.rate for row in ROWS]
    batch = (costs_of[0] - costs_of[1]) / (1 / few.batch - 1 / many.batch)
    text = costs_of[1] - batch / many.batch
    front = (many.cores - many.engine_cores) / many.rate
    return Costs(HAPROXY_MS / 1000 if balanced else 0.0, front, batch, text, WAY)


def calibrate() -> list[tuple[int, float, float]]:
    """Return connections, measured rate and simulated rate of each measured row."""
    alone = Site(costs(balanced=False), 1, FRONT_CORES)
    return [(row.connections, row.rate, closed_load(alone, row.connections, SECONDS).rate) for row in ROWS]


def simulate(rate: int, nodes: int, cores: int = 1) -> Online:
    """Return a case of requests at a rate.

    Args:
        rate: requests per second.
        nodes: nodes behind the balancer.
        cores: cores of the balancer.
    """
    return Online.of(rate, nodes, open_load(Site(costs(balanced=True), nodes, FRONT_CORES, cores), rate, SECONDS))


def breaking(nodes: int, cores: int, first: int) -> tuple[Online, Online]:
    """Return the highest rate, in steps, whose p99 is accepted, and the next one, which breaks.

    Args:
        nodes: nodes behind the balancer.
        cores: cores of the balancer.
        first: a rate that is accepted.
    """
    rate, last = first, simulate(first, nodes, cores)
    while True:
        rate += STEP
        case = simulate(rate, nodes, cores)
        if case.p99_ms > 1e3 * ACCEPTED:
            return last, case
        last = case


def report() -> dict[str, object]:
    """Return all figures."""
    return {
        "calibration": calibrate(),
        "costs_ms": {key: 1e3 * value for key, value in dataclasses.asdict(costs(balanced=True)).items()},
        "online": [simulate(RATE, nodes) for nodes in (1, 2, 3)],
        "breaks": [
            (cores, *breaking(nodes, cores, first))
            for nodes, cores, first in ((2, 1, 15_000), (1, 4, 31_000), (2, 4, 62_000))
        ],
        "network_online": RATE * (REQUEST_BYTES + ANSWER_BYTES),
        "daily": [Daily.of(bulk) for bulk in BULK],
    }


def lines(found: dict[str, object]) -> Iterator[str]:
    """Yield the report as text."""
    times: dict[str, float] = found["costs_ms"]  # type: ignore[assignment]
    yield "Times of a request, ms: " + ", ".join(f"{name} {value:.3f}" for name, value in times.items())
    yield ""
    yield "connections   measured requests/s   simulated   difference"
    for connections, measured, simulated in found["calibration"]:  # type: ignore[attr-defined]
        yield f"{connections:11}{measured:22,.0f}{simulated:12,.0f}{100 * (simulated / measured - 1):+12.0f} %"
    yield ""
    yield f"{RATE:,} requests/s of one short text, MiniLM, one H200 a node, one core for the balancer"
    yield "nodes   p50 ms   p99 ms   texts a batch   front cores   balancer cores   $ a billion requests"
    cases: list[Online] = found["online"]  # type: ignore[assignment]
    for case in cases:
        rent = case.nodes * 1e9 / RATE / 3600 * RENTAL.dollars
        yield (
            f"{case.nodes:5}{case.p50_ms:9.1f}{case.p99_ms:9.1f}{case.batch:16.0f}{case.fronts:14.1f}"
            f"{case.balancer:17.2f}{rent:25.0f}"
        )
    network: float = found["network_online"]  # type: ignore[assignment]
    yield f"network: {network / 1e6:.0f} MB/s, {100 * network / NETWORK:.1f} % of 25 Gbit/s"
    yield ""
    yield f"Highest rate with a p99 of at most {1e3 * ACCEPTED:.0f} ms, in steps of {STEP:,} requests/s"
    yield "nodes   cores for the balancer   requests/s   busy front cores of 7   busy balancer cores   p99 ms one step above"
    broken: list[tuple[int, Online, Online]] = found["breaks"]  # type: ignore[assignment]
    for cores, last, above in broken:
        yield (f"{last.nodes:5}{cores:25}{last.rate:13,}{last.fronts:24.1f}{last.balancer:22.2f}{above.p99_ms:25.0f}")
    yield ""
    yield f"{DAY_TEXTS:,} texts a day, {DAY_TEXTS / 86_400:,.0f} a second"
    yield "model                   GPUs   cores   network MB/s   vectors TB/day   $ a billion texts   API $   times"
    needs: list[Daily] = found["daily"]  # type: ignore[assignment]
    for need in needs:
        yield (
            f"{need.name:22}{need.gpus:6}{need.cores:8.1f}{need.network / 1e6:15.0f}{need.stored / 1e12:17.1f}"
            f"{need.dollars:20.2f}{need.api_dollars:8,.0f}{need.api_dollars / need.dollars:8.0f}"
        )
    yield ""
    yield "model                  between a GPU and its host, MB/s   a copy of it, share of a core"
    for need in needs:
        yield f"{need.name:22}{need.bus / 1e6:34.0f}{100 * need.copied:30.1f} %"


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = report()
    if options.json:
        print(json.dumps(found, default=dataclasses.asdict))
    else:
        print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
