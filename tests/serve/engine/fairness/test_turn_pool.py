"""`TurnPool`: clients take turns, results and errors arrive, and cancelled work does not run."""

from __future__ import annotations

import threading

import pytest

from fletcher.serve.engine.fairness.turn_pool import TurnPool

SECONDS = 10.0


def test_clients_take_turns_and_the_work_of_each_runs_in_order() -> None:
    pool, gate, order = TurnPool(1, "test"), threading.Event(), list[str]()
    pool.submit("first", lambda: gate.wait(SECONDS))
    futures = [pool.submit("many", lambda n=number: order.append(f"many {n}")) for number in range(4)]  # type: ignore[misc]
    futures += [pool.submit("few", lambda n=number: order.append(f"few {n}")) for number in range(2)]  # type: ignore[misc]
    gate.set()
    for future in futures:
        future.result(SECONDS)
    assert order == ["many 0", "few 0", "many 1", "few 1", "many 2", "many 3"]
    pool.shutdown()


def test_results_and_errors_arrive() -> None:
    pool = TurnPool(2, "test")
    assert pool.submit("a", lambda: 7).result(SECONDS) == 7

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        pool.submit("a", fail).result(SECONDS)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit("a", fail)


def test_cancelled_work_does_not_run() -> None:
    pool, gate, order = TurnPool(1, "test"), threading.Event(), list[str]()
    pool.submit("first", lambda: gate.wait(SECONDS))
    gone = pool.submit("a", lambda: order.append("gone"))
    good = pool.submit("a", lambda: order.append("good"))
    assert gone.cancel()
    gate.set()
    good.result(SECONDS)
    assert order == ["good"]
    left = threading.Event()
    pool.submit("first", lambda: left.wait(SECONDS))
    pool.submit("a", lambda: order.append("left out"))
    pool.shutdown(wait=False, cancel=True)
    left.set()
    pool.shutdown()
    assert order == ["good"]
