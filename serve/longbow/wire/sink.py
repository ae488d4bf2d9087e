"""Rows into a dataset of Longbow: several streams, retried, bounded, each row once.

Longbow neither overwrites nor deduplicates, so a batch that may have arrived is not simply sent again: what is there of it is
asked first (`presence`), and only the rest goes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from fletcher.runtime.closing import Closing

from ..options import SinkOptions
from .connection import Connection
from .exchange import Parcel
from .lane import Lane
from .shared import Ledger, Shared
from .target import Target

__all__ = ["Parcel", "Sink"]


DEFAULTS: Final = SinkOptions()


class Sink(Closing):
    """Takes parcels and sees them through. A context manager that ends its threads."""

    def __init__(
        self,
        target: Target,
        dataset: str,
        schema: pa.Schema,
        ledger: Ledger,
        options: SinkOptions = DEFAULTS,
        *,
        on_done: Callable[[Parcel], None] = lambda parcel: None,
        hold: Callable[[], str] = lambda: "",
    ) -> None:
        """
        Args:
            target: where Longbow is.
            dataset: where the rows go; it is made on first use.
            schema: of every parcel's batch.
            ledger: what is told.
            options: how rows are sent.
            on_done: called for each parcel that was acknowledged, on a stream's thread.
            hold: why the next batch should wait, or empty; asked before each.
        """
        self._shared = Shared(target, dataset, schema, ledger, options, on_done, hold)
        self.breaker = self._shared.breaker
        self._lanes = [Lane(self._shared, Connection(target)) for _ in range(options.streams)]
        self._watcher = threading.Thread(target=self._watch, name="fletcher-longbow-watch", daemon=True)
        self._watcher.start()

    @property
    def open_parcels(self) -> int:
        """Parcels handed in and not yet acknowledged."""
        return self._shared.open

    @property
    def retries(self) -> int:
        """Streams that failed and were opened anew."""
        return self._shared.retries

    @property
    def failed(self) -> bool:
        """Whether something failed for good: it takes nothing more."""
        return self._shared.error is not None

    def check(self) -> None:
        """
        Raises:
            ServiceError, InputError, OSError: something failed for good.
        """
        self._shared.check()

    def send(self, parcel: Parcel) -> None:
        """Hands a parcel in; waits while enough others wait, which is what slows the engine down.

        Raises:
            ServiceError, InputError, OSError: an earlier parcel failed for good.
        """
        shared = self._shared
        with shared.settled:
            shared.open += 1
        while True:
            shared.check()
            try:
                shared.waiting.put(parcel, timeout=0.1)
                return
            except queue.Full:
                continue

    def flush(self) -> None:
        """Waits until everything was acknowledged.

        Raises:
            ServiceError, InputError, OSError: something failed for good.
        """
        shared = self._shared
        with shared.settled:
            while shared.open and shared.error is None:
                shared.settled.wait(0.5)
        shared.check()

    def _watch(self) -> None:
        """Looks for overdue streams: a stream that hangs can only be ended from outside."""
        while not self._shared.closing.wait(min(0.25, self._shared.target.timeout / 4)):
            for lane in self._lanes:
                lane.watch()

    def close(self) -> None:
        """Ends the streams, with what was not acknowledged in doubt."""
        self._shared.closing.set()
        for lane in self._lanes:
            lane.close()
        self._watcher.join()
