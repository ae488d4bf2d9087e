"""Binding of the workers' threads to processors."""

from __future__ import annotations

import logging

import pytest

from fletcher.runtime.machine.affinity import pinning, worker_processors
from fletcher.runtime.machine.machine import Machine


def test_workers_are_spread_over_nodes_by_their_size() -> None:
    one = Machine("", frozenset(), (0, 1, 2, 3), ((0, 1, 2, 3),), 1)
    assert worker_processors(4, one) == []
    assert pinning(4, one) is None
    two = Machine("", frozenset(), (0, 1, 2), ((0, 1), (2,)), 1)
    assert worker_processors(6, two) == [(0, 1), (2,), (0, 1), (0, 1), (2,), (0, 1)]


def test_each_worker_thread_is_bound_to_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr("os.sched_setaffinity", lambda thread, processors: calls.append((thread, *processors)))
    pin = pinning(2, Machine("", frozenset(), (0, 1, 2, 3), ((0, 1), (2, 3)), 1))
    assert pin is not None
    pin()
    pin()
    assert calls == [(0, 0, 1), (0, 2, 3)]


def test_a_missing_processor_leaves_the_worker_unpinned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: int, processors: tuple[int, ...]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.sched_setaffinity", refuse)
    pin = pinning(1, Machine("", frozenset(), (0, 1), ((0,), (1,)), 1))
    assert pin is not None
    with caplog.at_level(logging.WARNING, "fletcher.runtime.machine.affinity"):
        pin()
    assert [record.message for record in caplog.records] == ["worker not pinned"]
