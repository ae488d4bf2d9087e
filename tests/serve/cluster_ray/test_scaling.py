"""The number of replicas for their queues, and the policy as Ray Serve calls it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fletcher.serve.cluster_ray.scaling import BUSY, OPEN, QUEUE, QueueSeconds, wanted_replicas


@pytest.mark.parametrize(
    ("queues", "busy", "requests", "now", "wanted"),
    [
        ([], [], 0.0, 0, 0),  # no requests
        ([], [], 1.0, 0, 1),  # the first request
        ([], [], 5.0, 2, 2),  # replicas that have not reported yet
        ([1.5, 1.5], [1, 1], 9.0, 2, 3),  # 1.5 times the target
        ([9.0], [1], 9.0, 1, 2),  # at most twice as many at once
        ([9.0, 9.0, 9.0], [1, 1, 1], 9.0, 3, 6),
        ([0.5, 0.5], [1, 1], 9.0, 2, 2),  # half of the target: enough replicas, and not too many
        ([0.1, 0.1], [0.2, 0.2], 1.0, 2, 1),  # one would compute for 0.4 of its time
        ([0.1, 0.1], [0.4, 0.4], 1.0, 2, 2),  # one would compute for 0.8 of its time
        ([0.0], [0.0], 0.0, 1, 0),  # idle
        ([0.0], [0.0], 0.5, 1, 1),  # a request is open
        ([0.0], [0.1], 0.0, 1, 1),  # it has computed
    ],
)
def test_wanted_replicas(queues: list[float], busy: list[float], requests: float, now: int, wanted: int) -> None:
    assert wanted_replicas(dict(enumerate(queues)), dict(enumerate(busy)), requests, now, target=1.0) == wanted


def test_the_policy_reads_what_replicas_report() -> None:
    metrics = {QUEUE: {"a": 3.0}, BUSY: {"a": 1.0}, OPEN: {"a": 4.0}}
    context = SimpleNamespace(
        aggregated_metrics=metrics, total_queued_requests=0.0, current_num_replicas=1, target_num_replicas=1
    )
    assert QueueSeconds(target=1.0)(context) == (2, {})
    waiting = SimpleNamespace(
        aggregated_metrics=None, total_queued_requests=2.0, current_num_replicas=0, target_num_replicas=0
    )
    assert QueueSeconds(target=1.0)(waiting) == (1, {})


def test_a_replica_that_starts_is_not_ended() -> None:
    assert wanted_replicas({}, {}, 0.0, 0, 1.0, starting=1) == 1
    assert wanted_replicas({}, {}, 0.0, 0, 1.0, starting=0) == 0
