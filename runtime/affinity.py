"""Which processors a worker's thread runs on. One node of memory: wherever the system puts it. Several: near its own."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable

from .machine import Machine

__all__ = ["pinning", "plan"]

logger = logging.getLogger("fletcher.runtime.affinity")


def plan(workers: int, machine: Machine) -> list[tuple[int, ...]]:
    """The processors of each worker: those of one NUMA node, nodes taking turns as often as they have processors.

    On one node nothing is pinned: the system moves threads to idle cores better than a fixed plan, and two processes that pin
    alike would share the first cores.

    Args:
        workers: how many.
        machine: whose nodes.

    Returns:
        Processors by worker; empty where nothing is to be pinned.
    """
    if len(machine.numa_nodes) < 2:
        return []
    turns = [
        node for group in itertools.zip_longest(*([node] * len(node) for node in machine.numa_nodes)) for node in group
    ]
    nodes = itertools.cycle([node for node in turns if node is not None])
    return [next(nodes) for _ in range(workers)]


def pinning(workers: int, machine: Machine) -> Callable[[], None] | None:
    """What each worker's thread calls first, or None where nothing is pinned."""
    places = plan(workers, machine)
    if not places or not hasattr(os, "sched_setaffinity"):
        return None
    turn = itertools.count()

    def pin() -> None:
        place = places[next(turn) % len(places)]
        try:
            os.sched_setaffinity(0, place)  # 0 is the calling thread
        except (
            OSError
        ) as error:  # the processors were taken away since the machine was read; an unpinned thread computes too
            fields = {"processors": place, "reason": str(error)}
            logger.warning("worker not pinned", extra={"fields": fields})

    return pin
