"""Binding of worker threads to processors: on a machine with several NUMA nodes, each worker runs on one node."""

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
    """Return the processors of each worker: all processors of one NUMA node.

    Workers go to the nodes in turn, and each node gets a turn for each of its processors. With one node, threads are not
    pinned: the system moves threads to idle cores better than a fixed plan, and two processes that pin in the same way would
    share the first cores.

    Args:
        workers: number of workers.
        machine: machine with the NUMA nodes.

    Returns:
        Processors by worker; empty if threads should not be pinned.
    """
    if len(machine.numa_nodes) < 2:
        return []
    turns = [
        node for group in itertools.zip_longest(*([node] * len(node) for node in machine.numa_nodes)) for node in group
    ]
    nodes = itertools.cycle([node for node in turns if node is not None])
    return [next(nodes) for _ in range(workers)]


def pinning(workers: int, machine: Machine) -> Callable[[], None] | None:
    """Return the function that each worker thread must call first, or None if threads are not pinned."""
    processors = worker_processors(workers, machine)
    if not processors or not hasattr(os, "sched_setaffinity"):
        return None
    turn = itertools.count()

    return lambda: _bind(processors[next(turn) % len(processors)])


class ThreadBinding:
    """`ThreadBinding`: binding of threads to the processors near their device. Safe to use from several threads."""

    def __init__(self) -> None:
        self._local = threading.local()

    def move(self, processors: tuple[int, ...]) -> None:
        """Bind the calling thread to processors, if it is not bound to them already.

        Args:
            processors: logical processors; empty does not bind the thread. The main thread is never bound, because threads
                that the program starts later would inherit the binding.
        """
        if not processors or getattr(self._local, "processors", None) == processors:
            return
        self._local.processors = processors
        if threading.current_thread() is not threading.main_thread() and hasattr(os, "sched_setaffinity"):
            _bind(processors)


def _bind(processors: tuple[int, ...]) -> None:
    try:
        os.sched_setaffinity(0, processors)  # 0 is the calling thread
    except OSError as error:  # the process may no longer use these processors; an unpinned thread computes too
        fields = {"processors": processors, "reason": str(error)}
        logger.warning("worker not pinned", extra={"fields": fields})
