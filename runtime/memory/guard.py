"""`MemoryGuard`: session whose batches fit into its device's memory; a batch that failed is halved.

It knows sizes and free bytes; nothing of GPUs or graphs. What other programs take of the device counts as gone.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..errors import DeviceMemoryError
from ..session.counters import Counters
from ..session.session import Session
from .budget import MemoryGate
from .estimate import MIB, MemoryEstimate

__all__ = ["RESERVE", "MemoryGuard"]

#: Bytes of a device that batches leave free: for kernels' own workspaces, and for what others take between two looks.
RESERVE = 256 * MIB

#: Seconds for which a reading of the device's memory is used: a driver may take longer to answer than a short text takes.
FRESH = 0.05

#: What the bound of a batch grows by with every batch that succeeds after one failed: doubled after 35 batches.
RECOVERY = 1.02


@dataclass(slots=True, eq=False)
class _Run:
    """Batch under way.

    Attributes:
        before: bytes that the arena had when it began.
        peak: the most that was under way together since, as the graph's shape predicts it; bytes.
    """

    before: int
    peak: int = 0


class MemoryGuard(Session):
    """Session around one that computes on a device with little memory. Safe to use from several threads.

    Attributes:
        estimate: what batches need, and what is counted of that.
    """

    def __init__(
        self,
        session: Session,
        estimate: MemoryEstimate,
        memory_info: Callable[[], tuple[int, int]],
        *,
        reserve: int = RESERVE,
        held: Callable[[], int] | None = None,
        is_held: Callable[[Batch, str | None], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap a session.

        Args:
            session: loaded; it is closed with the guard.
            estimate: what batches need on that device; hand the same one to the session that follows a lost one.
            memory_info: reads the device's bytes that are free, and all.
            reserve: bytes that are left free.
            held: reads the bytes that the session's arena has for batches, used or not. None takes for it what the free bytes
                fall by while batches run, which is wrong where other programs take memory at the same time.
            is_held: whether a batch, for an output, computes in memory that the session took when it was opened: such a batch
                passes without a look. None is never.
            clock: seconds.
        """
        self._is_held = is_held
        self._session = session
        self.provider, self.devices, self.fallback = session.provider, session.devices, session.fallback
        self.estimate = estimate
        self._memory_info = memory_info
        self._reserve = reserve
        self._read_held = held
        self._clock = clock
        self._gate = MemoryGate(1)
        self._lock = threading.Lock()
        self._runs: list[_Run] = []
        self._raw = 0
        self._limit: float | None = None
        self._free, self._total = memory_info()
        self._held = 0 if held is None else held()
        self._read_at = clock()
        estimate.holds(self._held)

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        """Compute one batch, in parts if the device has no room for the whole; see `Session.run`.

        Raises:
            DeviceMemoryError: not even one of its texts fits.
            As the session's own `run` otherwise.
        """
        if self._is_held is not None and self._is_held(batch, output):
            return self._session.run(batch, output)
        values = []
        pending = [(0, len(batch))]
        while pending:
            start, stop = pending.pop()
            part = batch if stop - start == len(batch) else batch.select(np.arange(start, stop))
            lengths, room = part.lengths, self._room()
            raw = self.estimate.shape.predict(lengths)
            rows = self._fitting(lengths, self.estimate.corrected(raw), room)
            if rows == len(part):
                self._gate.capacity = room
                computed = self._attempt(part, output, raw)
                if computed is not None:
                    values.append(computed)
                    continue
                rows = -(-rows // 2)
            with self._lock:
                self.estimate.splits += 1
            # Rows stay in order: results are joined, whether they have a row a text or a row a token.
            pending += [(start + rows, stop), (start, start + rows)]
        return values[0] if len(values) == 1 else np.concatenate(values)

    def counters(self) -> Counters:
        """Return what the session counts by itself."""
        return self._session.counters()

    def close(self) -> None:
        """Release the memory."""
        self._session.close()

    def _attempt(self, part: Batch, output: str | None, raw: int) -> NDArray[np.float32] | None:
        """Compute a part that should fit; return None if it did not and can be halved.

        Args:
            part: one text, or what was predicted to fit.
            output: as for `run`.
            raw: bytes that the graph's shape predicts.

        Raises:
            DeviceMemoryError: one text did not, not even with the device for itself.
        """
        needed = self.estimate.corrected(raw)
        try:
            return self._measured(part, output, raw, needed)
        except DeviceMemoryError:
            self._shrink(needed)
            if len(part) > 1:
                return None
        try:  # the memory may be with another batch under way: once that has ended, try alone
            return self._measured(part, output, raw, self._total)
        except DeviceMemoryError as error:
            with self._lock:
                self._look()
                free = self._free + self._held
                self.estimate.refused += 1
            raise DeviceMemoryError(
                f"1 text of {part.num_tokens} tokens needs about {needed / MIB:.0f} MiB on {self.provider}, and the device "
                f"has {free / MIB:.0f} MiB of {self._total / MIB:.0f} MiB for it: end other programs on that device, load "
                "fewer models, or convert the checkpoint with a smaller --max-tokens"
            ) from error

    def _measured(self, part: Batch, output: str | None, raw: int, size: int) -> NDArray[np.float32]:
        """Compute a batch once there is room for it beside the others."""
        with self._gate.hold(size):
            with self._lock:
                run = _Run(self._held)
                self._runs.append(run)
                self._raw += raw
                for other in self._runs:
                    other.peak = max(other.peak, self._raw)
                self.estimate.predicted = self.estimate.corrected(self._raw)
            try:
                values = self._session.run(part, output)
            except BaseException:
                self._ended(run, raw)
                raise
            self._ended(run, raw, learn=True)
            return values

    def _ended(self, run: _Run, raw: int, *, learn: bool = False) -> None:
        with self._lock:
            self._runs.remove(run)
            self._raw -= raw
            if not learn:
                return
            if self._limit is not None:
                self._limit *= RECOVERY
                if self._limit > self._total:
                    self._limit = None
            if self.estimate.counts(run.peak) or self._is_old():
                self._look(run.peak)
                self.estimate.learn(run.peak, run.before, self._held)

    def _shrink(self, needed: int) -> None:
        """Lower the bound of a batch after one was too large though it was predicted to fit; the bound grows back slowly."""
        with self._lock:
            self.estimate.retries += 1
            self._limit = min(self._limit or needed, needed) / 2

    def _fitting(self, lengths: NDArray[np.int64], needed: int, room: int) -> int:
        """Return the number of first rows to run together: about equal parts that fit, one row at least."""
        count = len(lengths)
        if count == 1 or needed <= room:
            return count
        fit = bisect_right(range(1, count + 1), room, key=lambda rows: self.estimate.predict(lengths[:rows]))
        equal = -(-count // -(-needed // room))
        return max(1, min(fit, equal))

    def _room(self) -> int:
        """Return the bytes for all batches at once, 1 at least."""
        with self._lock:
            # Without `held`, what the arena grows by while batches run would pass for others' memory.
            if self._is_old() and (self._read_held is not None or not self._runs):
                self._look()
            room = self._free + self._held - self._reserve
            return max(1, int(room if self._limit is None else min(room, self._limit)))

    def _is_old(self) -> bool:
        return self._clock() - self._read_at > FRESH

    def _look(self, peak: int = 0) -> None:
        """Read the device's memory.

        Args:
            peak: predicted bytes of the batches that may have made the arena grow since.
        """
        before = self._free
        self._free, self._total = self._memory_info()
        if self._read_held is not None:
            self._held = self._read_held()
        elif peak:
            self._held = max(self._held, min(self._held + before - self._free, self.estimate.most(peak)))
        self._read_at = self._clock()
        self.estimate.holds(self._held)
