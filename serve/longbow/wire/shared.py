"""State that the streams of one sink share: the waiting parcels, their progress, and the first fatal error."""

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

#: Largest number of parcels per stream that wait; then `Sink.send` blocks.
WAITING: Final = 4


class Ledger(Protocol):
    """Receiver of the state of every parcel: called before sending and after acknowledgment. A journal is a ledger."""

    def sending(self, unit: int) -> None: ...

    def acked(self, unit: int) -> None: ...


class Shared:
    """State of a sink. Safe to use from several threads.

    Attributes:
        target: address of Longbow.
        dataset: name of the dataset.
        schema: schema of every parcel's batch.
        ledger: receiver of the state of every parcel.
        options: options of sending.
        hold: function that returns the reason why the next batch must wait, or an empty text; called before each batch.
        waiting: parcels that no stream has taken yet.
        sizer: number of rows of the next batch.
        breaker: breaker that opens when Longbow fails.
        closing: event that is set when the streams must end.
        retries: number of streams that failed.
        last_ack: time of the last acknowledgment, by `time.monotonic`.
        open: number of parcels that were passed to `send` and are not yet acknowledged.
        error: first error that cannot be retried, or None.
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
        """Raise the error that ended the streams, if there is one.

        Raises:
            ServiceError, InputError, OSError: an earlier parcel failed, and it cannot be sent again.
        """
        if self.error is not None:
            raise self.error

    def acked(self, parcels: Sequence[Parcel], rows: int, seconds: float) -> None:
        """Note an acknowledgment.

        Args:
            parcels: parcels that are complete now.
            rows: number of rows of the batch.
            seconds: time until the acknowledgment.
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
        """Store an error that cannot be retried. Only the first one is kept."""
        with self.settled:
            if self.error is None:
                self.error = error
            self.settled.notify_all()
