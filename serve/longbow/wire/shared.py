"""What the streams of one sink share: the parcels that wait, how they are doing, and the first error that ends them all."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import pyarrow as pa

from fletcher.runtime.errors import FletcherError

from ...engine.breaker import Breaker
from ..options import SinkOptions
from .exchange import Parcel
from .pacing import BatchSizer
from .target import Target

__all__ = ["Ledger", "Shared"]

#: Parcels that wait for a stream; more, and whoever makes them waits.
WAITING: Final = 4


class Ledger(Protocol):
    """What is told of every parcel, before and after; the journal is one."""

    def sending(self, unit: int) -> None: ...

    def acked(self, unit: int) -> None: ...


class Shared:
    """Safe to use from several threads.

    Attributes:
        target: where Longbow is.
        dataset: where the rows go.
        schema: of every parcel's batch.
        ledger: what is told.
        options: how rows are sent.
        hold: why the next batch should wait, or empty; asked before each.
        waiting: parcels that no stream has taken.
        sizer: rows of the next batch.
        breaker: opens while nothing works.
        closing: set when the streams must end.
        retries: streams that failed.
        last_ack: when, by `time.monotonic`.
        open: parcels handed in and not yet acknowledged.
        error: what failed for good.
    """

    def __init__(
        self,
        target: Target,
        dataset: str,
        schema: pa.Schema,
        ledger: Ledger,
        options: SinkOptions,
        on_done: Callable[[Parcel], None],
        hold: Callable[[], str],
    ) -> None:
        self.target = target
        self.dataset = dataset
        self.schema = schema
        self.ledger = ledger
        self.options = options
        self.hold = hold
        self.waiting: queue.Queue[Parcel] = queue.Queue(WAITING * options.streams)
        self.sizer = BatchSizer()
        self.breaker = Breaker()
        self.closing = threading.Event()
        self.retries = 0
        self.last_ack = time.monotonic()
        self.open = 0
        self.error: FletcherError | OSError | None = None
        self.settled = threading.Condition()
        self._on_done = on_done

    def check(self) -> None:
        """
        Raises:
            ServiceError, InputError, OSError: something failed for good.
        """
        if self.error is not None:
            raise self.error

    def acked(self, parcels: Sequence[Parcel], rows: int, seconds: float) -> None:
        """Longbow has some rows, and with them all of some parcels.

        Args:
            parcels: that are complete.
            rows: of the batch.
            seconds: that its acknowledgement took.
        """
        self.last_ack = time.monotonic()
        self.sizer.acknowledged(rows, seconds)
        self.breaker.succeed()
        try:
            for parcel in parcels:
                self.ledger.acked(parcel.unit)
                self._on_done(parcel)
        except (FletcherError, OSError) as error:
            self.fail(error)
        finally:
            with self.settled:
                self.open -= len(parcels)
                self.settled.notify_all()

    def fail(self, error: FletcherError | OSError) -> None:
        """Something failed for good: the first such error is the one that is told."""
        with self.settled:
            if self.error is None:
                self.error = error
            self.settled.notify_all()
