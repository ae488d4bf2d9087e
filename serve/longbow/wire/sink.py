"""Delivery of rows to a dataset of Longbow: several streams, with retries and bounded memory. Each row is stored once.

Longbow neither overwrites nor deduplicates rows. So before a batch that may have arrived is sent again, `presence`
checks which of its rows Longbow has, and only the others are sent.
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
    """Queue and threads that send parcels to Longbow. A context manager that ends its threads."""

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
        """Start the threads.

        Args:
            target: address of Longbow.
            dataset: name of the dataset, which is created on first use.
            schema: schema of every parcel's batch.
            ledger: receiver of the state of every parcel.
            options: options of sending.
            on_done: called on a stream's thread for each parcel that is acknowledged.
            hold: function that returns the reason why the next batch must wait, or an empty text; called before each
                batch.
        """
        self._shared = Shared(target, dataset, schema, ledger, options, on_done, hold)
        self.breaker = self._shared.breaker
        self._lanes = [Lane(self._shared, Connection(target)) for _ in range(options.streams)]
        self._watcher = threading.Thread(target=self._watch, name="fletcher-longbow-watch", daemon=True)
        self._watcher.start()

    @property
    def open_parcels(self) -> int:
        """Number of parcels that were passed to `send` and are not yet acknowledged."""
        return self._shared.open

    @property
    def retries(self) -> int:
        """Number of streams that failed and were opened again."""
        return self._shared.retries

    @property
    def failed(self) -> bool:
        """True if a parcel failed and cannot be sent again. The sink then does not accept other parcels."""
        return self._shared.error is not None

    def check(self) -> None:
        """Raise the error that ended the streams, if there is one.

        Raises:
            ServiceError, InputError, OSError: an earlier parcel failed, and it cannot be sent again.
        """
        self._shared.check()

    def send(self, parcel: Parcel) -> None:
        """Queue a parcel. Block while the queue is full, which slows the engine down.

        Raises:
            ServiceError, InputError, OSError: an earlier parcel failed, and it cannot be sent again.
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
        """Wait until all parcels are acknowledged.

        Raises:
            ServiceError, InputError, OSError: a parcel failed, and it cannot be sent again.
        """
        shared = self._shared
        with shared.settled:
            while shared.open and shared.error is None:
                shared.settled.wait(0.5)
        shared.check()

    def _watch(self) -> None:
        """Check for overdue streams: only another thread can cancel a stream that hangs."""
        while not self._shared.closing.wait(min(0.25, self._shared.target.timeout / 4)):
            for lane in self._lanes:
                lane.watch()

    def close(self) -> None:
        """End the streams. Parcels that are not acknowledged stay in doubt."""
        self._shared.closing.set()
        for lane in self._lanes:
            lane.close()
        self._watcher.join()
