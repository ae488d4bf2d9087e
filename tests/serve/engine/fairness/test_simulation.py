"""Random clients on a queue without threads: no request is lost or starves, and every share is given back."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np
import pytest

from fletcher.runtime import Encodings
from fletcher.runtime.errors import FletcherError, OverloadedError
from fletcher.serve.engine.admission import Admission
from fletcher.serve.engine.backlog import Backlog
from fletcher.serve.engine.fairness.drain_rate import DrainRate
from fletcher.serve.engine.fairness.shares import Shares
from fletcher.serve.engine.open_request import OpenRequest
from fletcher.serve.engine.price import price_of_rows
from fletcher.serve.engine.rows_request import RowsRequest
from fletcher.serve.engine.terms import PRIORITIES, WEIGHTS, Priority, Terms
from fletcher.serve.observe.metrics import Metrics

from ...fake_encoder import FakeEncoder, info, vector_of

pytestmark = pytest.mark.heavy  # by the seconds that it computes

BUDGET = 64
INFO = info(token_budget=BUDGET)


@dataclass
class Expected:
    """A request, with the ids of its rows."""

    request: OpenRequest
    rows: list[list[int]]


class Simulation:
    """An admission and a backlog, and a device that computes one batch when it is asked to.

    Attributes:
        served: tokens that were computed, by flow.
        begun: numbers of the parts of each stream, in the order in which their first rows were computed.
        ended: numbers of the parts of each stream, in the order of their answers.
    """

    def __init__(self, *, max_tokens: int, max_memory: int = 1 << 30) -> None:
        shares = Shares(max_tokens, BUDGET)
        self.admission = Admission(
            shares=shares, max_wait=1000.0, max_memory=max_memory, metrics=Metrics(), rate=DrainRate()
        )
        self.backlog = Backlog(self.admission)
        self.encoder = FakeEncoder(token_budget=BUDGET)
        self.served: dict[tuple[Priority, str], int] = defaultdict(int)
        self.begun: dict[str, list[int]] = defaultdict(list)
        self.ended: dict[str, list[int]] = defaultdict(list)
        self.expected: list[Expected] = []
        self._resumed: list[OpenRequest] = []
        self.admission.resume = self._resumed.append

    def submit(self, rows: list[list[int]], terms: Terms) -> OpenRequest:
        """Submit rows.

        Raises:
            OverloadedError: the admission rejects them.
        """
        request = RowsRequest(Encodings.from_lists(rows), terms=terms)
        opened = self.admission.admit(request, price_of_rows(request, INFO))
        self.expected.append(Expected(opened, rows))
        if terms.stream:
            opened.futures[0].add_done_callback(lambda future: self.ended[terms.stream].append(terms.part))
        if not opened.parked:
            self._push(opened)
        return opened

    def _push(self, opened: OpenRequest) -> None:
        request = opened.request
        assert isinstance(request, RowsRequest)
        self.backlog.push(opened, self.encoder.prepare_rows(request.encodings, None))

    def step(self) -> bool:
        """Compute one batch; return whether there was one. If tokens wait, there must be one, unless all were dropped."""
        computed = self.compute()
        self._check_counts()
        return computed

    def compute(self) -> bool:
        """Compute one batch, as `step`, without a check of the counts."""
        for opened in self._resumed:
            self._push(opened)
        self._resumed.clear()
        if not self.backlog._waiting.heap:
            assert not self.admission.tokens
            return False
        dropped: list[tuple[OpenRequest, FletcherError]] = []
        with self.admission.lock:
            pieces = self.backlog._gather(BUDGET, dropped)
        assert pieces or dropped
        for request, error in dropped:
            self.admission.settle(request, error=error)
        for piece in pieces:
            terms, encodings = piece.request.terms, piece.encodings
            self.served[terms.priority, terms.client] += encodings.num_tokens
            if piece.first and terms.stream:
                self.begun[terms.stream].append(terms.part)
            values = self.encoder.run(encodings)
            answer = values if piece.rows is None else piece.request.fill(piece.rows, values)
            if answer is not None:
                self.admission.settle(piece.request, answer)
        return True

    def _check_counts(self) -> None:
        admission = self.admission
        waiting = [each.request for each in self.expected if not each.request.settled]
        assert admission.tokens == sum(request.cost for request in waiting)
        assert admission.memory == sum(request.memory for request in waiting)
        flows = admission.shares._flows.values()
        assert sum(flow.tokens for flow in flows) == admission.tokens
        assert sum(client.counted for client in admission.shares._clients.values()) == admission.shares.counted

    def finish(self) -> None:
        """Compute until nothing waits; check the end of every request, and that nothing is held."""
        for _ in range(100_000):
            if not self.step() and not self._resumed:
                break
        admission = self.admission
        assert (admission.count, admission.tokens, admission.memory, admission.shares.counted) == (0, 0, 0, 0)
        assert not admission.shares._flows and not admission.shares._clients
        assert not admission.parked.flows and not self.backlog._waiting._lines
        for each in self.expected:
            future = each.request.futures[0]
            assert future.done()
            try:
                values = future.result(0)
            except CancelledError:
                continue
            np.testing.assert_array_equal(values, np.stack([vector_of(row) for row in each.rows]))


def random_rows(chance: random.Random, most: int) -> list[list[int]]:
    return [[chance.randrange(100) for _ in range(chance.randint(1, 16))] for _ in range(chance.randint(1, most))]


@pytest.mark.parametrize("seed", range(30))
def test_every_request_ends_and_gives_back_its_share(seed: int) -> None:
    chance = random.Random(seed)
    simulation = Simulation(
        max_tokens=chance.choice([100, 1000, 100_000]), max_memory=chance.choice([2000, 20_000, 1 << 30])
    )
    streams: list[Terms] = []
    accepted: set[tuple[str, int]] = set()
    for _ in range(300):
        action = chance.random()
        client, priority = f"client {chance.randrange(4)}", chance.choice(PRIORITIES)
        if action < 0.3:
            try:
                simulation.submit(random_rows(chance, 8), Terms(priority, client))
            except OverloadedError:
                continue
        elif action < 0.6:
            if not streams or chance.random() < 0.2:
                streams.append(Terms(client=client).as_stream(priority))
            place = chance.randrange(len(streams))
            terms = streams[place]
            simulation.submit(random_rows(chance, 40), terms)  # never rejected
            accepted.add((terms.stream, terms.part))
            streams[place] = terms.at(terms.part + 1)
        elif action < 0.7 and simulation.expected:
            chance.choice(simulation.expected).request.futures[0].cancel()
        elif action < 0.72 and streams:  # a client leaves: all parts of its stream are cancelled
            gone = streams.pop(chance.randrange(len(streams))).stream
            for each in simulation.expected:
                if each.request.terms.stream == gone:
                    each.request.futures[0].cancel()
        else:
            simulation.step()
    simulation.finish()
    for parts in simulation.begun.values():
        assert parts == sorted(parts)
    assert {(stream, part) for stream, parts in simulation.ended.items() for part in parts} == accepted


@pytest.mark.parametrize("seed", range(6))
def test_clients_with_work_are_served_by_their_weight(seed: int) -> None:
    chance = random.Random(seed)
    simulation = Simulation(max_tokens=1 << 30)
    kinds = {
        (chance.choice(PRIORITIES), f"client {number}"): chance.choice(["stream", "small", "large"])
        for number in range(5)
    }
    for (priority, client), kind in kinds.items():
        terms = Terms(priority, client)
        if kind == "stream":
            terms = terms.as_stream(priority)
        for part in range(2000 if kind == "small" else 50):
            rows = random_rows(chance, 2) if kind == "small" else [[7] * chance.randint(9, 16) for _ in range(40)]
            simulation.submit(rows, terms.at(part) if kind == "stream" else terms)
    flows = simulation.admission.shares._flows
    while len(flows) == len(kinds) and all(flow.tokens > 2 * BUDGET for flow in flows.values()):
        simulation.compute()
    served = [simulation.served[flow] / WEIGHTS[flow[0]] for flow in kinds]
    # The rows that fill a batch are chosen by their length, so that clients with small requests get a little more.
    assert max(served) <= 1.35 * min(served), {flow: simulation.served[flow] for flow in kinds}


def test_a_newcomer_is_in_one_of_the_next_batches() -> None:
    simulation = Simulation(max_tokens=1 << 30)
    for _ in range(4):
        terms = Terms(client="flood").as_stream("bulk")
        for part in range(4):
            simulation.submit([[5] * 16] * 100, terms.at(part))
    for number in range(50):
        simulation.step()
        request = simulation.submit([[1, number, 2]], Terms(client="newcomer"))
        simulation.step()
        simulation.step()
        assert request.settled, number
    simulation.finish()
