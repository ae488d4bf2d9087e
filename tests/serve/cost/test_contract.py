"""Cost contract: no request takes more memory than the server may have, or stops its event loop."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as fl
import pytest

from .cases import CHOSEN, Case, cases, flight_options
from .contract import MEMORY_LIMIT, Cost, Served, serve
from .models import make_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_models(tmp_path_factory.mktemp("cost"))


@pytest.fixture(scope="module")
def served(models: tuple[Path, Path]) -> Iterator[Served]:
    with serve(models, "--fronts", "0") as server:
        yield server


@pytest.fixture(scope="module")
def fronts(models: tuple[Path, Path]) -> Iterator[Served]:
    with serve(models, "--fronts", "1") as server:
        yield server


def breach(server: Served, cost: Cost) -> str:
    """Return the part of the contract that a request broke; empty if it kept it."""
    if not cost.alive:
        return "the server ended"
    if cost.peak > MEMORY_LIMIT:
        return f"peak of {cost.peak >> 20} MiB above {MEMORY_LIMIT >> 20} MiB"
    if cost.stop > server.allowed:
        return f"stop of {cost.stop:.2f} s above {server.allowed:.2f} s"
    return ""


def judge(server: Served, chosen: Iterable[Case]) -> list[str]:
    breaches, measured = [], []
    for case in chosen:
        cost = server.cost(case)
        if reason := breach(server, cost):
            breaches.append(f"{case.name} ({cost.status}): {reason}")
        measured.append(f"{case.name}: {cost.status}, {cost.peak >> 20} MiB, {cost.stop * 1000:.0f} ms")
        if not cost.alive:
            break
    if (file := os.environ.get("COST_REPORT")) is not None:
        Path(file).write_text("\n".join(measured))
    return breaches


def some(server: Served) -> list[Case]:
    chosen = [case for case in cases(server.document, server.embedder, server.reranker) if case.name in CHOSEN]
    assert len(chosen) == len(CHOSEN)
    return chosen


def test_requests_that_stopped_a_server_keep_the_contract(served: Served) -> None:
    assert judge(served, some(served)) == []


def test_they_keep_it_with_fronts(fronts: Served) -> None:
    assert judge(fronts, some(fronts)) == []


@pytest.mark.slow
def test_every_route_and_option_keeps_the_contract(served: Served) -> None:
    assert judge(served, cases(served.document, served.embedder, served.reranker)) == []


def exchange(server: Served, options: bytes, texts: list[str]) -> int:
    """Send a stream to Flight; return 200, or 400 if it was refused."""
    batch = pa.RecordBatch.from_pydict({"text": texts})
    with fl.connect(server.flight) as client:
        try:
            writer, reader = client.do_exchange(
                fl.FlightDescriptor.for_command(options), fl.FlightCallOptions(timeout=20)
            )
            with writer:
                writer.begin(batch.schema)
                writer.write_batch(batch)
                writer.done_writing()
                for _ in reader:
                    pass
        except (pa.ArrowException, fl.FlightError):
            return 400
    return 200


@pytest.mark.slow
def test_flight_keeps_the_contract(served: Served) -> None:
    breaches = []
    for name, options in flight_options(served.embedder):
        for texts in (["a " * 32_768], ["a " * 254] * 512):
            if reason := breach(served, served.cost(lambda: exchange(served, options, texts))):  # noqa: B023 - called at once
                breaches.append(f"{name}: {reason}")
    assert breaches == []


def test_a_ticket_of_two_million_texts_is_refused(served: Served) -> None:
    def get() -> int:
        with fl.connect(served.flight) as client, pytest.raises(pa.ArrowInvalid, match="limit"):
            client.do_get(fl.Ticket(b'{"texts":[' + b'"a",' * 1_999_999 + b'"a"]}')).read_all()
        return 400

    assert breach(served, served.cost(get)) == ""
