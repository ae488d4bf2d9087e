"""`MemoryBudget` and `MemoryGate`: memory that batches may need, and a gate that holds all batches under way below it."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..artifact.memory_shape import MemoryShape
from ..errors import InputError

__all__ = [
    "MemoryBudget",
    "MemoryGate",
    "memory_budget",
    "request_bytes",
    "resident",
    "slack",
]


class MemoryGate:
    """Gate that lets batches begin while their predicted memory fits together, in the order in which they came.

    A large batch that waits is not overtaken by small ones. Safe to use from several threads.

    Attributes:
        capacity: bytes that batches may have at once. It may be changed: who waits sees it when a batch ends.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Batches that wait for room."""
        return len(self._waiting)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait for room. A batch that is larger than the gate's capacity passes alone: the smallest batch
        was checked at load."""
        size = min(size, self.capacity)
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is turn and (not self._used or self._used + size <= self.capacity)
                )
                self._used += size
            finally:  # an interrupted wait must not hold up the others
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Memory that batches may need.

    Attributes:
        shape: what a batch needs, on the provider that runs it.
        batch: bytes of one batch; a single text may need more.
        gate: holds all batches under way.
    """

    shape: MemoryShape
    batch: int
    gate: MemoryGate


#: Besides batches: texts on their way in, their vectors on their way out, and what the allocator keeps back; a share of the
#: limit where that is more, as a larger server has more requests open.
SLACK, SLACK_SHARE = 24 << 20, 16


def slack(limit: int) -> int:
    """Return the bytes of a limit that are kept for everything but batches."""
    return max(SLACK, limit // SLACK_SHARE)


def request_bytes(limit: int) -> int:
    """Return the bytes of that slack that a server's open requests may hold; the rest is the allocator's."""
    return slack(limit) * 2 // 3


def memory_budget(
    shape: MemoryShape,
    *,
    limit: int,
    loaded: int,
    caches: int,
    workers: int,
    max_tokens: int,
    shared: bool = True,
    kept: int = 0,
) -> MemoryBudget:
    """Share the memory that a limit leaves among the batches.

    Args:
        shape: what a batch needs, on the provider that runs it.
        limit: bytes that the process may have resident.
        loaded: bytes that it has, with the model loaded.
        caches: bytes that its caches may still take.
        workers: batches computed at once.
        max_tokens: longest text.
        shared: whether what a batch had serves the next one on any worker, as in ONNX Runtime's arena. OpenVINO keeps it for
            each worker: after the same batch on two of them it holds twice as much (benchmarks/memory/peak.py --workers 2).
        kept: bytes that the provider will come to keep for kernels.

    Raises:
        InputError: one text of the longest length does not fit, or not on each of the workers that share nothing.
    """
    longest = shape.predict(np.array([max_tokens]))
    times = 1 if shared else workers
    caches += kept
    used = loaded + caches + longest * times
    needed = max(used + SLACK, -(-used * SLACK_SHARE // (SLACK_SHARE - 1)))
    if needed > limit:
        on_each = "" if times == 1 else f" on each of {workers} workers"
        fewer = "" if times == 1 else "take fewer --workers, "
        raise InputError(
            f"a memory limit of {_mib(limit)} is too small: one text of {max_tokens} tokens needs {_mib(longest)}{on_each} "
            f"beside the loaded model's {_mib(loaded)} and {_mib(caches + slack(needed))} for caches and buffers. Give at "
            f"least {_mib(needed)}, {fewer}or convert the checkpoint with a smaller --max-tokens"
        )
    capacity = limit - loaded - caches - slack(limit)
    return MemoryBudget(shape, max(capacity // workers, longest), MemoryGate(capacity))


def _mib(size: int) -> str:
    return f"{-(-size // (1 << 20))} MiB"


def resident() -> int:
    """Return the bytes of this process in memory; on systems without /proc, its peak."""
    status = Path("/proc/self/statm")
    try:
        pages = int(status.read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
