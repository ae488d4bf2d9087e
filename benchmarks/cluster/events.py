"""Discrete-event simulation of requests through a balancer and nodes, on a heap of events."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Clock", "Costs", "Node", "Result", "Site", "closed_load", "open_load"]

#: Share of the simulated time that is not measured, at its begin.
WARM_UP: Final = 0.25


@dataclass(frozen=True, slots=True)
class Costs:
    """`Costs`: times of the parts that a request passes, in seconds.

    Attributes:
        balancer: of a request in the balancer's core; 0 without a balancer.
        front: of a request in a front process, before and after the engine together.
        batch, text: of a batch in the engine process: `batch + text * texts`.
        way: of a request outside these: sockets, scheduling.
    """

    balancer: float
    front: float
    batch: float
    text: float
    way: float


@dataclass(frozen=True, slots=True)
class Site:
    """`Site`: what answers.

    Attributes:
        costs: times of the parts.
        nodes: nodes behind the balancer.
        fronts: cores for front processes on each node.
        balancer: cores of the balancer.
    """

    costs: Costs
    nodes: int
    fronts: int
    balancer: int = 1


class Clock:
    """`Clock`: events in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call a function later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._number), act))

    def run(self, until: float) -> None:
        """Run the events before a time."""
        while self._events and self._events[0][0] < until:
            self.now, _, act = heapq.heappop(self._events)
            act()


class Cores:
    """`Cores`: servers with one queue."""

    def __init__(self, clock: Clock, count: int) -> None:
        self._clock = clock
        self._free = count
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy = 0.0

    def work(self, seconds: float, then: Callable[[], None]) -> None:
        """Occupy a core for some time when one is free, and then call a function."""
        if not self._free:
            self._waiting.append((seconds, then))
            return
        self._free -= 1
        self._begin(seconds, then)

    def _begin(self, seconds: float, then: Callable[[], None]) -> None:
        self.busy += seconds
        self._clock.after(seconds, lambda: self._end(then))

    def _end(self, then: Callable[[], None]) -> None:
        if self._waiting:
            self._begin(*self._waiting.popleft())
        else:
            self._free += 1
        then()


class Node:
    """`Node`: fronts, and an engine process that computes all requests that wait as one batch.

    Attributes:
        open: requests that it has not answered.
        batches, texts: what it computed.
    """

    def __init__(self, clock: Clock, costs: Costs, fronts: int) -> None:
        self._clock = clock
        self._costs = costs
        self.fronts = Cores(clock, fronts)
        self._waiting: list[Callable[[], None]] = []
        self._computing = False
        self.open = 0
        self.batches = self.texts = 0

    def answer(self, then: Callable[[], None]) -> None:
        """Answer a request, and then call a function."""
        self.open += 1

        def done() -> None:
            self.open -= 1
            self._clock.after(self._costs.way / 2, then)

        def leave() -> None:
            self.fronts.work(self._costs.front / 2, done)

        def enter() -> None:
            self.fronts.work(self._costs.front / 2, lambda: self._queue(leave))

        self._clock.after(self._costs.way / 2, enter)

    def _queue(self, then: Callable[[], None]) -> None:
        self._waiting.append(then)
        if not self._computing:
            self._compute()

    def _compute(self) -> None:
        batch, self._waiting = self._waiting, []
        self._computing = True
        seconds = self._costs.batch + self._costs.text * len(batch)
        self.batches += 1
        self.texts += len(batch)

        def end() -> None:
            self._computing = False
            if self._waiting:
                self._compute()
            for each in batch:
                each()

        self._clock.after(seconds, end)


@dataclass
class Result:
    """`Result`: what was measured after the warm-up.

    Attributes:
        rate: answers per second.
        latencies: seconds of each answer, sorted.
        fronts: cores of the fronts that were busy, on the busiest node.
        balancer: busy cores of the balancer.
        batch: mean texts of a batch.
    """

    rate: float
    latencies: list[float] = field(repr=False)
    fronts: float
    balancer: float
    batch: float

    def percentile(self, share: float) -> float:
        """Return the seconds that a share of the answers took at most."""
        return self.latencies[min(int(len(self.latencies) * share), len(self.latencies) - 1)]


class _Run:
    """A run: its clock, its nodes, its balancer, and the latencies after the warm-up."""

    def __init__(self, site: Site, seconds: float) -> None:
        self.clock = Clock()
        self.nodes = [Node(self.clock, site.costs, site.fronts) for _ in range(site.nodes)]
        self._balancer = Cores(self.clock, site.balancer)
        self._costs = site.costs
        self._seconds = seconds
        self._latencies: list[float] = []

    def request(self, then: Callable[[], None]) -> None:
        """Send a request to the node with the fewest open ones, and call a function after its answer."""
        begun = self.clock.now

        def done() -> None:
            if self.clock.now >= WARM_UP * self._seconds:
                self._latencies.append(self.clock.now - begun)
            then()

        def choose() -> None:
            min(self.nodes, key=lambda node: node.open).answer(done)

        if self._costs.balancer:
            self._balancer.work(self._costs.balancer, choose)
        else:
            choose()

    def result(self) -> Result:
        """Run the clock, and return what was measured."""
        self.clock.run(self._seconds)
        return Result(
            rate=len(self._latencies) / (self._seconds * (1 - WARM_UP)),
            latencies=sorted(self._latencies),
            fronts=max(node.fronts.busy for node in self.nodes) / self._seconds,
            balancer=self._balancer.busy / self._seconds,
            batch=sum(node.texts for node in self.nodes) / max(sum(node.batches for node in self.nodes), 1),
        )


def closed_load(site: Site, connections: int, seconds: float) -> Result:
    """Return the result of clients that send their next request after an answer.

    Args:
        site: what answers.
        connections: clients.
        seconds: simulated time.
    """
    run = _Run(site, seconds)

    def again() -> None:
        run.request(again)

    for number in range(connections):
        run.clock.after(number * 1e-5, again)
    return run.result()


def open_load(site: Site, rate: float, seconds: float) -> Result:
    """Return the result of requests that arrive independently of each other.

    Args:
        site: what answers.
        rate: requests per second.
        seconds: simulated time.
    """
    run, chance = _Run(site, seconds), random.Random(7)

    def arrive() -> None:
        run.clock.after(chance.expovariate(rate), arrive)
        run.request(lambda: None)

    run.clock.after(0.0, arrive)
    return run.result()
