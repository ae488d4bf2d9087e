"""`MemoryGuard`: session that splits batches so that they fit into the memory of its device; a batch that failed is halved.

The guard knows sizes and free bytes; it does not know GPUs or graphs. Memory of other programs on the device is not free.
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

#: Bytes of a device that batches leave free: for workspaces of kernels, and for memory that other programs take between two
#: readings.
RESERVE = 256 * MIB

#: Seconds for which a reading of the device's memory is used: an answer of the driver may take longer than a short text.
FRESH = 0.05

#: Factor by which the limit of a batch grows with each successful batch after a failure: it doubles after 35 batches.
RECOVERY = 1.02


@dataclass(slots=True, eq=False)
class _Run:
    """`_Run`: batch in progress.

    Attributes:
        before: bytes of the arena when the batch started.
        peak: largest predicted bytes of all batches in progress since then, without correction.
    """

    before: int
    peak: int = 0


class MemoryGuard(Session):
    """`MemoryGuard`: wrapper of a session that limits the memory of its batches. Safe to use from several threads.

    Attributes:
        estimate: estimate of the memory of batches, with its counters.
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
            session: loaded session. The guard closes it.
            estimate: estimate of the memory of batches on this device. Pass the same object again with the session that
                replaces a lost one.
            memory_info: returns the free bytes and the total bytes of the device.
            reserve: bytes that are left free.
            held: returns the bytes of the session's arena for batches, used or not. None estimates them from the free bytes
                before and after batches, which is wrong if other programs take memory at the same time.
            is_held: returns whether a batch, for an output, runs in memory that the session allocated when it was opened.
                Such a batch runs without a check. None checks every batch.
            clock: returns seconds of a monotonic clock.
        """
        self._is_held = is_held
        self._session = session
        self.provider, self.devices, self.fallback = session.provider, session.devices, session.fallback
        self.small_tokens = session.small_tokens
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
        """Compute one batch, in parts if it does not fit into the memory of the device; see `Session.run`.

        Raises:
            DeviceMemoryError: a single text of the batch does not fit.
            Exception: any other error of the session's `run`.
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
            # The parts stay in order, so that their results can be joined: one row per text or one row per token.
            pending += [(start + rows, stop), (start, start + rows)]
        return values[0] if len(values) == 1 else np.concatenate(values)

    def counters(self) -> Counters:
        """Return the counters of the session."""
        return self._session.counters()

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def _attempt(self, part: Batch, output: str | None, raw: int) -> NDArray[np.float32] | None:
        """Compute a part that should fit; return None if it did not fit and can be halved.

        Args:
            part: one text, or several texts that should fit.
            output: see `Session.run`.
            raw: bytes that the shape predicts, without correction.

        Raises:
            DeviceMemoryError: a single text does not fit, even without other batches on the device.
        """
        needed = self.estimate.corrected(raw)
        try:
            return self._measured(part, output, raw, needed)
        except DeviceMemoryError:
            self._shrink(needed)
            if len(part) > 1:
                return None
        try:  # other batches may use the memory: wait until they have ended, and run alone
            return self._measured(part, output, raw, self._total)
        except DeviceMemoryError as error:
            with self._lock:
                self._read_memory()
                free = self._free + self._held
                self.estimate.refused += 1
            raise DeviceMemoryError(
                f"1 text of {part.num_tokens} tokens needs about {needed / MIB:.0f} MiB on {self.provider}, and the device "
                f"has {free / MIB:.0f} MiB of {self._total / MIB:.0f} MiB for it: end other programs on that device, load "
                "fewer models, or convert the checkpoint with a smaller --max-tokens"
            ) from error

    def _measured(self, part: Batch, output: str | None, raw: int, size: int) -> NDArray[np.float32]:
        """Compute a batch as soon as it fits beside the other batches, and learn from the memory that it used."""
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
        """Record the end of a batch; with `learn`, raise the limit again and correct the estimate."""
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
                self._read_memory(run.peak)
                self.estimate.learn(run.peak, run.before, self._held)

    def _shrink(self, needed: int) -> None:
        """Lower the limit of a batch after a batch did not fit as predicted; the limit grows back slowly."""
        with self._lock:
            self.estimate.retries += 1
            self._limit = min(self._limit or needed, needed) / 2

    def _fitting(self, lengths: NDArray[np.int64], needed: int, room: int) -> int:
        """Return the number of rows of the first part, at least 1: it fits, and the parts are about equal."""
        count = len(lengths)
        if count == 1 or needed <= room:
            return count
        fit = bisect_right(range(1, count + 1), room, key=lambda rows: self.estimate.predict(lengths[:rows]))
        equal = -(-count // -(-needed // room))
        return max(1, min(fit, equal))

    def _room(self) -> int:
        """Return the bytes for all batches together, at least 1."""
        with self._lock:
            # Without `held`, growth of the arena during a batch would be taken for memory of other programs.
            if self._is_old() and (self._read_held is not None or not self._runs):
                self._read_memory()
            room = self._free + self._held - self._reserve
            return max(1, int(room if self._limit is None else min(room, self._limit)))

    def _is_old(self) -> bool:
        return self._clock() - self._read_at > FRESH

    def _read_memory(self, peak: int = 0) -> None:
        """Read the memory of the device.

        Args:
            peak: predicted bytes of the batches that may have made the arena grow since the last reading.
        """
        before = self._free
        self._free, self._total = self._memory_info()
        if self._read_held is not None:
            self._held = self._read_held()
        elif peak:
            self._held = max(self._held, min(self._held + before - self._free, self.estimate.most(peak)))
        self._read_at = self._clock()
        self.estimate.holds(self._held)
