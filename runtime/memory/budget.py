"""`MemoryBudget` and `MemoryGate`: memory that batches may use, and a gate that keeps all batches in progress below it."""

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
    """`MemoryGate`: gate that lets batches start, in the order of their arrival, while their predicted memory fits together.

    Small batches do not overtake a large batch that waits. Safe to use from several threads.

    Attributes:
        capacity: bytes that batches may use together. It may be changed; waiting batches use the new value when a batch ends.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Number of batches that wait for memory."""
        return len(self._waiting)

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until a batch fits, and reserve its memory for the body of a `with` statement.

        A batch that is larger than the capacity runs alone: the smallest batch was checked at load.

        Args:
            size: predicted bytes of the batch.
        """
        size = min(size, self.capacity)
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is turn and (not self._used or self._used + size <= self.capacity)
                )
                self._used += size
            finally:  # an interrupted wait must not block the other batches
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
    """`MemoryBudget`: memory that batches may use.

    Attributes:
        shape: prediction of the memory of a batch on the provider.
        batch: largest number of bytes of one batch; a single text may need more.
        gate: gate for all batches in progress.
    """

    shape: MemoryShape
    batch: int
    gate: MemoryGate


#: Memory for everything except batches: texts of requests, vectors of responses, and unused memory of the allocator.
#: `SLACK` is the minimum in bytes. The limit divided by `SLACK_SHARE` is used if it is larger, because a server with more
#: memory has more open requests.
SLACK, SLACK_SHARE = 24 << 20, 16


def slack(limit: int) -> int:
    """Return the bytes of a limit that are reserved for everything except batches."""
    return max(SLACK, limit // SLACK_SHARE)


def request_bytes(limit: int) -> int:
    """Return the bytes of the slack that open requests of a server may use; the rest is for the allocator."""
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
    """Return the memory that batches may use under a memory limit.

    Args:
        shape: prediction of the memory of a batch on the provider.
        limit: bytes that may be resident in the process.
        loaded: bytes that are resident after the model was loaded.
        caches: bytes that caches may use in addition.
        workers: number of batches computed at the same time.
        max_tokens: length of the longest text.
        shared: whether workers use the memory of earlier batches together, as in ONNX Runtime's arena. OpenVINO keeps this
            memory for each worker: after the same batch on two workers it holds twice as much (benchmarks/memory/peak.py
            --workers 2).
        kept: bytes that the provider will keep for kernels.

    Raises:
        InputError: one text of the longest length does not fit, or not one on each worker if `shared` is False.
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
    """Return the resident bytes of this process; on systems without /proc, the largest number so far."""
    status = Path("/proc/self/statm")
    try:
        pages = int(status.read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
