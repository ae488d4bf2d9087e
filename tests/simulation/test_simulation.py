"""Runs of seeds: the properties hold, a seed reproduces its run, and planted faults are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fletcher.serve.engine import workers
from fletcher.serve.engine.admission import Admission
from fletcher.serve.engine.open_request import OpenRequest

from .run import failing_seeds, simulate, simulator

pytestmark = pytest.mark.heavy  # by the seconds that it computes

#: Seeds within which a planted fault must be found.
FEW = 30


def test_a_hundred_seeds() -> None:
    assert failing_seeds(range(100)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_seeds() -> None:
    assert failing_seeds(range(10_000)) == []


def test_a_seed_gives_the_same_trace_again() -> None:
    with simulator():
        for seed in range(10):
            first, second = simulate(seed), simulate(seed)
            assert first.trace == second.trace
            assert len(first.trace) > 3
        assert simulate(0).trace != simulate(1).trace


@pytest.mark.slow
def test_a_seed_gives_the_same_trace_in_other_processes() -> None:
    root = Path(__file__).parents[2]
    traces = []
    for hashes in ("1", "2"):  # the order of sets differs in the two processes
        environment = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(root / "src")}
        command = [sys.executable, "-m", "tests.simulation", "--seed", "3"]
        traces.append(subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True).stdout)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 1000


# Planted faults -------------------------------------------------------------------------------------------------------


def first_error() -> str:
    """Return the error of the first seed that has one; empty if no seed has one."""
    with simulator():
        for seed in range(FEW):
            if (error := simulate(seed).error) is not None:
                return str(error)
    return ""


def test_a_lost_release_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An admission that keeps the memory of requests whose callers have left."""
    settle = Admission.settle

    def losing(
        self: Admission, request: OpenRequest, answer: object = None, error: BaseException | None = None
    ) -> None:
        if request.cancelled:
            request.memory = 0
        settle(self, request, answer, error)

    monkeypatch.setattr(Admission, "settle", losing)
    assert "are held" in first_error()


def test_answers_of_the_wrong_request_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose rows are not in the order of its pieces."""
    join = workers._join
    monkeypatch.setattr(workers, "_join", lambda pieces: join([*pieces[1:], pieces[0]]))
    assert "vector" in first_error()


def test_a_missed_cancel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that computes what its callers have cancelled."""
    reason = OpenRequest.reason_to_drop

    def missing(self: OpenRequest, now: float) -> object:
        return None if self.cancelled else reason(self, now)

    monkeypatch.setattr(OpenRequest, "reason_to_drop", missing)
    assert "cancelled" in first_error()
