"""Processors of a worker's thread: on a machine of several NUMA nodes, those of one node."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable

from .machine import Machine

__all__ = ["ThreadBinding", "pinning", "worker_processors"]

logger = logging.getLogger("fletcher.runtime.machine.affinity")


def worker_processors(workers: int, machine: Machine) -> list[tuple[int, ...]]:
    """Return the processors of each worker: those of one NUMA node, nodes taking turns as often as they have processors.

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
    """Return the function that each worker's thread calls first, or None if nothing is pinned."""
    processors = worker_processors(workers, machine)
    if not processors or not hasattr(os, "sched_setaffinity"):
        return None
    turn = itertools.count()

    return lambda: _bind(processors[next(turn) % len(processors)])


class ThreadBinding:
    """Binding of threads to the processors near their device. Safe to use from several threads."""

    def __init__(self) -> None:
        self._here = threading.local()

    def move(self, processors: tuple[int, ...]) -> None:
        """Bind the calling thread to processors, if it is not bound to them already.

        Args:
            processors: where to; empty leaves it where it is. The main thread stays: it belongs to the program, and threads
                that it starts later would be bound with it.
        """
        if not processors or getattr(self._here, "processors", None) == processors:
            return
        self._here.processors = processors
        if threading.current_thread() is not threading.main_thread() and hasattr(os, "sched_setaffinity"):
            _bind(processors)


def _bind(processors: tuple[int, ...]) -> None:
    try:
        os.sched_setaffinity(0, processors)  # 0 is the calling thread
    except (
        OSError
    ) as error:  # the processors were taken away since the machine was read; an unpinned thread computes too
        fields = {"processors": processors, "reason": str(error)}
        logger.warning("worker not pinned", extra={"fields": fields})
