"""Rows into a dataset of Longbow: several streams, retried, bounded, each row at most as often as the protocol forces.

Longbow neither overwrites nor deduplicates, so a batch that may have arrived is not simply sent again: the rows under its ids
are deleted first. A row that is deleted stays in `index_len`, which is why `extra` counts them.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

import pyarrow as pa

from fletcher.runtime.errors import FletcherError, InputError, OverloadedError, ServiceError

from ..breaker import Breaker
from .connection import Connection, Target
from .exchange import Exchange, Parcel
from .pacing import Backoff, BatchSizer

__all__ = ["Ledger", "Parcel", "Sink", "SinkOptions"]

logger = logging.getLogger("fletcher.serve.longbow")

#: Parcels that wait for a stream; more, and whoever makes them waits.
WAITING: Final = 4

COMPRESSIONS: Final = ("none", "lz4", "zstd")


class Ledger(Protocol):
    """What is told of every parcel, before and after; the journal is one."""

    def sending(self, unit: int) -> None: ...

    def acked(self, unit: int) -> None: ...

    def add(self, name: str, amount: int) -> None: ...


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """How rows are sent.

    Attributes:
        streams: at once, each on a connection of its own.
        compression: none, lz4 or zstd. Vectors do not compress; texts do.
        patience: seconds without any acknowledgement after which the job gives up.
    """

    streams: int = 1
    compression: str = "none"
    patience: float = 300.0

    def __post_init__(self) -> None:
        if self.streams < 1:
            raise InputError(f"{self.streams} streams were asked for; it needs at least 1")
        if self.compression not in COMPRESSIONS:
            raise InputError(f"the compression {self.compression!r} is unknown: use one of {', '.join(COMPRESSIONS)}")


class Sink:
    """Takes parcels and sees them through. A context manager that ends its threads."""

    def __init__(
        self,
        target: Target,
        dataset: str,
        schema: pa.Schema,
        ledger: Ledger,
        options: SinkOptions = SinkOptions(),
        *,
        on_done: Callable[[Parcel], None] = lambda parcel: None,
        hold: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """
        Args:
            target: where Longbow is.
            dataset: where the rows go; it is made on first use.
            schema: of every parcel's batch.
            ledger: what is told.
            options: how rows are sent.
            on_done: called for each parcel that was acknowledged, on a stream's thread.
            hold: seconds to wait before the next batch, asked before each.
        """
        self.dataset = dataset
        self.sizer = BatchSizer()
        self.breaker = Breaker()
        self._target = target
        self._schema = schema
        self._ledger = ledger
        self._options = options
        self._on_done = on_done
        self._hold = hold
        self._queue: queue.Queue[Parcel | None] = queue.Queue(WAITING * options.streams)
        self._open = 0
        self._settled = threading.Condition()
        self._error: FletcherError | OSError | None = None
        self._last_ack = time.monotonic()
        self._closing = threading.Event()
        self._lanes = [_Lane(self, Connection(target)) for _ in range(options.streams)]
        self._watcher = threading.Thread(target=self._watch, name="fletcher-longbow-watch", daemon=True)
        self._watcher.start()
        self.retries = 0

    @property
    def open_parcels(self) -> int:
        """Parcels handed in and not yet acknowledged."""
        return self._open

    def send(self, parcel: Parcel) -> None:
        """Hands a parcel in; waits while enough others wait, which is what slows the engine down.

        Raises:
            ServiceError, InputError, OSError: an earlier parcel failed for good.
        """
        with self._settled:
            self._open += 1
        while True:
            self.check()
            try:
                self._queue.put(parcel, timeout=0.1)
                return
            except queue.Full:
                continue

    def flush(self) -> None:
        """Waits until everything was acknowledged.

        Raises:
            ServiceError, InputError, OSError: something failed for good.
        """
        with self._settled:
            while self._open and self._error is None:
                self._settled.wait(0.5)
        self.check()

    @property
    def failed(self) -> bool:
        """Whether something failed for good: it takes nothing more."""
        return self._error is not None

    def check(self) -> None:
        """
        Raises:
            ServiceError, InputError, OSError: something failed for good.
        """
        if self._error is not None:
            raise self._error

    def _acked(self, parcels: Sequence[Parcel], rows: int, seconds: float) -> None:
        self._last_ack = time.monotonic()
        self.sizer.acknowledged(rows, seconds)
        self.breaker.succeed()
        try:
            for parcel in parcels:
                self._ledger.acked(parcel.unit)
                self._on_done(parcel)
        except (FletcherError, OSError) as error:
            self._fail(error)
        finally:
            with self._settled:
                self._open -= len(parcels)
                self._settled.notify_all()

    def _fail(self, error: FletcherError | OSError) -> None:
        with self._settled:
            if self._error is None:
                self._error = error
            self._settled.notify_all()

    def _watch(self) -> None:
        """Looks for overdue streams: a stream that hangs can only be ended from outside."""
        while not self._closing.wait(min(0.25, self._target.timeout / 4)):
            for lane in self._lanes:
                lane.watch()

    def close(self) -> None:
        """Ends the streams, with what was not acknowledged in doubt."""
        self._closing.set()
        for lane in self._lanes:
            lane.close()
        self._watcher.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Lane:
    """One stream after the other, on one connection and one thread."""

    def __init__(self, sink: Sink, connection: Connection) -> None:
        self._sink = sink
        self._connection = connection
        self._stream: Exchange | None = None
        self._backoff = Backoff()
        self._again: list[Parcel] = []
        self._trouble_since = 0.0
        self._thread = threading.Thread(target=self._run, name="fletcher-longbow", daemon=True)
        self._thread.start()

    def watch(self) -> None:
        """Ends the stream if it is overdue."""
        stream = self._stream
        if stream is not None:
            stream.watch()

    def close(self) -> None:
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        sink = self._sink
        while not sink._closing.is_set():
            parcels: list[Parcel] = []
            try:
                parcels = self._next()
                if parcels:
                    self._deliver(parcels)
                elif self._stream is not None and (self._stream.error is not None or self._rest()):
                    self._end_stream()
            except (ServiceError, OverloadedError) as error:
                self._recover(error, parcels)
            except (FletcherError, OSError) as error:
                self._give_up(error)
            except Exception as error:
                logger.exception("a stream to Longbow failed")
                self._give_up(ServiceError(f"the stream failed: {type(error).__name__}: {error}"))
        if self._stream is not None:
            self._stream.abort()
            self._stream = None

    def _rest(self) -> bool:
        stream = self._stream
        return stream is not None and stream.old and stream.idle

    def _end_stream(self) -> None:
        stream = self._stream
        assert stream is not None
        if stream.error is not None:
            raise stream.error
        self._stream = None
        stream.finish()

    def _next(self) -> list[Parcel]:
        """Parcels that fit one batch: those to send again, or those that wait."""
        if self._again:
            parcels, self._again = self._again[:1], self._again[1:]
            return parcels
        waiting = self._sink._queue
        try:
            first = waiting.get(timeout=0.05)
        except queue.Empty:
            return []
        parcels = [first] if first is not None else []
        rows = sum(parcel.batch.num_rows for parcel in parcels)
        room = self._sink.sizer.rows(_row_bytes(parcels[0].batch)) if parcels else 0
        while rows < room:
            try:
                more = waiting.get_nowait()
            except queue.Empty:
                break
            if more is not None:
                parcels.append(more)
                rows += more.batch.num_rows
        return parcels

    def _deliver(self, parcels: list[Parcel]) -> None:
        sink = self._sink
        while (wait := max(sink._hold(), sink.breaker.remaining())) > 0:
            self._in_trouble()
            if sink._closing.wait(min(wait, 1.0)):
                return
            self._check_patience(None)
        for parcel in parcels:
            for row in parcel.stale:
                self._connection.delete(sink.dataset, row)
        if self._stream is not None and self._stream.old:
            stream, self._stream = self._stream, None
            stream.finish()
        if self._stream is None:
            compression = None if sink._options.compression == "none" else sink._options.compression
            self._stream = Exchange(self._connection, sink.dataset, sink._schema, compression, sink._acked)
        for parcel in parcels:
            sink._ledger.sending(parcel.unit)
        whole = parcels[0].batch if len(parcels) == 1 else pa.concat_batches([parcel.batch for parcel in parcels])
        step = sink.sizer.rows(_row_bytes(whole))
        for start in range(0, whole.num_rows, step):
            part = whole.slice(start, step)
            done = parcels if start + step >= whole.num_rows else []
            self._stream.write(part, parcels, done)

    def _check_patience(self, error: FletcherError | None) -> None:
        sink = self._sink
        if self._out_of_patience():
            raise ServiceError(
                f"Longbow at {sink._target.url} has acknowledged nothing for {sink._options.patience:g} s"
                f"{f': {error}' if error else ''}. What was acknowledged is in the journal: run the job again to go on"
            )

    def _out_of_patience(self) -> bool:
        return time.monotonic() - self._trouble_since > self._sink._options.patience

    def _in_trouble(self) -> None:
        """Something failed, or is held back: the trouble began now, unless nothing was acknowledged since it began before."""
        if self._trouble_since <= self._sink._last_ack:
            self._trouble_since = time.monotonic()
            self._backoff.succeed()

    def _recover(self, error: FletcherError, parcels: list[Parcel]) -> None:
        """After a failure: wait, find out what arrived, and line up what must go again."""
        sink = self._sink
        sink.retries += 1
        self._in_trouble()
        doubt: list[Parcel] = []
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.abort()
            doubt = stream.unacked()
        logger.warning("a stream to Longbow failed", extra={"fields": {"reason": str(error), "in_doubt": len(doubt)}})
        self._again = [*doubt, *(parcel for parcel in parcels if parcel not in doubt), *self._again]
        ids = [row for parcel in doubt for row in parcel.batch.column("id").to_pylist()]
        while not sink._closing.is_set():
            try:
                self._check_patience(error)
                sink.breaker.fail()
                wait = max(self._backoff.fail(), sink.breaker.remaining())
                left = self._trouble_since + sink._options.patience - time.monotonic()
                if sink._closing.wait(max(min(wait, left), 0.0) + 0.01):
                    return
                self._take_back(ids)
                return
            except ServiceError as again:
                error = again
                if self._out_of_patience():
                    self._give_up(again)
                    return
            except (FletcherError, OSError) as fatal:
                self._give_up(fatal)
                return

    def _take_back(self, ids: list[int]) -> None:
        """Deletes what may have arrived; what is done is gone from `ids`, so that it need not be done again."""
        if not ids:
            return
        sink = self._sink
        wait_until_quiet(self._connection, sink.dataset)
        self._backoff.succeed()
        sink.breaker.succeed()
        found = 0
        try:
            while ids:
                found += self._connection.delete(sink.dataset, ids[-1])
                ids.pop()
        finally:
            sink._ledger.add("extra", found)
            if found:  # rows did arrive: patience is for a Longbow that takes nothing
                self._trouble_since = time.monotonic()

    def _give_up(self, error: FletcherError | OSError) -> None:
        self._sink._fail(error)
        self._sink._closing.wait()


def _row_bytes(batch: pa.RecordBatch) -> float:
    return float(batch.nbytes / max(batch.num_rows, 1))


def take_back(connection: Connection, dataset: str, ids: Sequence[int]) -> int:
    """Deletes rows that may have arrived, once Longbow has nothing under way any more.

    Returns:
        How many there were; they stay in `index_len`.

    Raises:
        ServiceError: Longbow is not there, or stays busy.
    """
    wait_until_quiet(connection, dataset)
    return sum(connection.delete(dataset, row) for row in ids)


def wait_until_quiet(connection: Connection, dataset: str, seconds: float | None = None) -> int:
    """Waits until Longbow is ready and its index grows no more; returns `index_len`.

    Raises:
        ServiceError: it stays busy.
    """
    deadline = time.monotonic() + (connection.target.timeout if seconds is None else seconds)
    last = -1
    pause = 0.02
    while True:
        state = connection.readiness(dataset)
        if state.status != "BUSY" and state.index_len == last:
            return last
        last = state.index_len if state.status != "BUSY" else -1
        if time.monotonic() > deadline:
            raise ServiceError(f"Longbow at {connection.target.url} stays busy: {state.reason or 'its index grows'}")
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
