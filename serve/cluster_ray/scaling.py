"""`QueueSeconds`: number of replicas for the wait in their queues. Ray Serve's controller calls it; no model is loaded there.

Ray Serve counts open requests by default. An engine with batches has hundreds of them while none waits, so a replica
reports the seconds of its queue and the share of the time in which it computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["BUSY", "OPEN", "QUEUE", "QueueSeconds", "wanted_replicas"]

#: Names of what a replica reports.
QUEUE: Final = "queue_seconds"
BUSY: Final = "busy_share"
OPEN: Final = "open_requests"

#: Share of the time in which replicas may compute after one of them was ended. Above it their queues would grow again.
BUSY_BELOW: Final = 0.6

#: Share of the target below which queues count as short.
SHORT: Final = 0.25


def wanted_replicas(
    queues: Mapping[Any, float],
    busy: Mapping[Any, float],
    requests: float,
    now: int,
    target: float,
    *,
    starting: int = 0,
) -> int:
    """Return the number of replicas that is wanted, without bounds and delays.

    Args:
        queues: seconds of each replica's queue, averaged over the period of the autoscaler.
        busy: share of the time in which each replica computed.
        requests: open requests of all replicas, and requests that wait for a replica.
        now: number of replicas that run.
        target: seconds of a queue that are wanted at most.
        starting: number of replicas that were wanted before; those that do not run yet are starting.
    """
    if now == 0:
        return max(starting, int(requests > 0))
    if not queues:  # replicas that have not reported yet
        return now
    mean = sum(queues.values()) / len(queues)
    if mean > target:
        return max(now + 1, math.ceil(now * min(mean / target, 2.0)))  # at most twice as many at once
    if mean > SHORT * target:
        return now
    load = sum(busy.values()) / max(len(busy), 1) * now
    if now == 1:
        return 0 if requests == 0 and load == 0 else 1
    return now - 1 if load / (now - 1) < BUSY_BELOW else now


class QueueSeconds:
    """The policy for `ray.serve.config.AutoscalingPolicy`, with `target` among its `policy_kwargs`."""

    def __init__(self, target: float) -> None:
        """Make the policy.

        Args:
            target: seconds of a queue that are wanted at most.
        """
        self._target = target

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas for an `AutoscalingContext`, and the policy's state, which is empty."""
        metrics = context.aggregated_metrics or {}
        waiting = float(context.total_queued_requests or 0.0)
        requests = waiting + sum(metrics.get(OPEN, {}).values())
        wanted = wanted_replicas(
            metrics.get(QUEUE, {}),
            metrics.get(BUSY, {}),
            requests,
            context.current_num_replicas,
            self._target,
            starting=context.target_num_replicas,
        )
        return wanted, {}
