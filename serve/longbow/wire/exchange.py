"""One stream of record batches to Longbow, which acknowledges each batch: `DoExchange ["ingest", dataset]`."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.flight as fl

from fletcher.runtime.errors import DeadlineError, FletcherError, ServiceError

from .connection import Connection
from .target import translate

__all__ = ["Exchange", "Parcel"]

#: Largest number of batches and bytes that wait for an acknowledgment: enough to keep the network busy.
WINDOW_BATCHES: Final = 4
WINDOW_BYTES: Final = 16 * 2**20

#: Seconds after which a stream is finished and a new one is opened, because gRPC's deadline covers a whole stream.
LIFETIME: Final = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """The rows of one unit of the journal.

    Attributes:
        unit: number of the unit in the journal.
        mark: unique text with which the metadata of the rows begins.
        batch: the rows, with the columns of `longbow_schema`.
        stale: ids whose former rows must be deleted first.
    """

    unit: int
    mark: str
    batch: pa.RecordBatch
    stale: Sequence[int] = ()


@dataclass(slots=True)
class _Sent:
    """A batch that was sent and not yet acknowledged.

    Attributes:
        rows: number of rows.
        size: size in bytes.
        done: the parcels that are complete with this batch.
        at: time of sending, or the time when the batch became the oldest one, by `time.monotonic`.
    """

    rows: int
    size: int
    done: Sequence[Parcel]
    at: float


class Exchange:
    """A stream, from its first batch to its last acknowledgment. Only one thread may write."""

    def __init__(
        self,
        connection: Connection,
        dataset: str,
        schema: pa.Schema,
        compression: str | None,
        on_ack: Callable[[Sequence[Parcel], int, float], None],
    ) -> None:
        """Open the stream.

        Args:
            connection: connection to Longbow.
            dataset: name of the dataset.
            schema: schema of every batch.
            compression: lz4, zstd or None.
            on_ack: called on the reading thread for each acknowledged batch, with the parcels that the batch completes,
                its number of rows, and the seconds until the acknowledgment.

        Raises:
            ServiceError, InputError: as in `translate`.
        """
        self._target = connection.target
        self._dataset = dataset
        self._on_ack = on_ack
        self._sent: deque[_Sent] = deque()
        self._bytes = 0
        self._owed: list[Parcel] = []
        self._changed = threading.Condition()
        self._late = False
        self._ended = False
        self._number = 0
        self.error: FletcherError | None = None
        self.opened = time.monotonic()
        with translate(self._target, "ingest", dataset):
            descriptor = fl.FlightDescriptor.for_path("ingest", dataset)
            lifetime = LIFETIME + 2 * self._target.timeout
            self._writer, self._reader = connection.client.do_exchange(descriptor, connection.options(lifetime))
            self._writer.begin(schema, options=pa.ipc.IpcWriteOptions(compression=compression))
        self._thread = threading.Thread(target=self._read, name="fletcher-longbow-acks", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """True if all batches are acknowledged."""
        return not self._sent

    @property
    def old(self) -> bool:
        """True if a new stream must be opened."""
        return time.monotonic() - self.opened > LIFETIME

    def write(self, batch: pa.RecordBatch, parcels: Sequence[Parcel], done: Sequence[Parcel]) -> None:
        """Send a batch. Wait while too many batches or bytes are not acknowledged.

        Args:
            batch: rows to send.
            parcels: the parcels that have rows in the batch.
            done: the parcels that are complete with the batch.

        Raises:
            ServiceError, InputError: the stream failed, now or before; `unacked` returns the parcels in doubt.
        """
        with self._changed:
            self._owed += [parcel for parcel in parcels if parcel not in self._owed]
            while self.error is None and self._sent and self._full(batch.nbytes):
                self._changed.wait(1.0)
            if self.error is not None:
                raise self.error
            self._sent.append(_Sent(batch.num_rows, batch.nbytes, done, time.monotonic()))
            self._bytes += batch.nbytes
        try:
            with translate(self._target, "ingest", self._dataset):
                self._writer.write_batch(batch)
        except FletcherError as error:
            raise self._failure(error) from error

    def _full(self, size: int) -> bool:
        return len(self._sent) >= WINDOW_BATCHES or self._bytes + size > WINDOW_BYTES

    def _failure(self, error: FletcherError) -> FletcherError:
        """Return the error to raise. The reading thread gets the server's message shortly after a write fails."""
        if threading.current_thread() is not self._thread:
            self._thread.join(self._target.timeout)
        with self._changed:
            if self.error is None:
                self.error = error
            return self.error

    def _read(self) -> None:
        """Read acknowledgments until the stream ends. Runs on the reading thread."""
        try:
            with translate(self._target, "ingest", self._dataset):
                while True:
                    try:
                        chunk = self._reader.read_chunk()
                    except StopIteration:
                        break
                    if chunk.app_metadata is not None:
                        self._acknowledged(json.loads(chunk.app_metadata.to_pybytes()))
            with self._changed:
                if self._sent or not self._ended:
                    raise ServiceError(
                        f"Longbow at {self._target.url} ended a stream before it acknowledged everything"
                    )
        except FletcherError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 (a defect must reach the writer, which would wait forever)
            self._fail(ServiceError(f"an acknowledgment could not be processed: {type(error).__name__}: {error}"))

    def _fail(self, error: FletcherError) -> None:
        with self._changed:
            if self._late:
                error = DeadlineError(
                    f"Longbow at {self._target.url} did not acknowledge a batch within {self._target.timeout:g} s. "
                    "It blocks without an error when more than 90 % of its memory is in use: check "
                    "longbow_gc_tuner_heap_utilization"
                )
            if self.error is None:
                self.error = error
            self._changed.notify_all()

    def _acknowledged(self, ack: dict[str, Any]) -> None:
        with self._changed:
            if not self._sent:
                raise ServiceError("Longbow acknowledged a batch that was not sent")
            sent = self._sent.popleft()
            self._number += 1
            if ack.get("status") != "acked" or ack.get("rows") != sent.rows or ack.get("batch_id") != self._number:
                raise ServiceError(
                    f"Longbow answered batch {self._number} of {sent.rows} rows with {json.dumps(ack)[:200]}"
                )
            self._bytes -= sent.size
            for parcel in sent.done:
                self._owed.remove(parcel)
            if self._sent:
                self._sent[0].at = max(self._sent[0].at, time.monotonic())  # the next batch is processed from now on
            self._changed.notify_all()
        self._on_ack(sent.done, sent.rows, time.monotonic() - sent.at)

    def watch(self) -> None:
        """Cancel the stream if its oldest batch is overdue. Another thread must call this regularly."""
        with self._changed:
            late = self._sent and time.monotonic() - self._sent[0].at > self._target.timeout
            if not late or self._late:
                return
            self._late = True
        self._reader.cancel()

    def unacked(self) -> list[Parcel]:
        """Return the parcels that were sent at least in part and are not fully acknowledged."""
        with self._changed:
            return list(self._owed)

    def finish(self) -> None:
        """End the writing, and wait for the last acknowledgment.

        Raises:
            ServiceError, InputError: the stream failed.
        """
        with self._changed:
            self._ended = True
        with translate(self._target, "ingest", self._dataset):
            self._writer.done_writing()
        self._thread.join()
        if self.error is not None:
            raise self.error
        self._close()

    def abort(self) -> None:
        """Cancel the stream."""
        self._reader.cancel()
        self._thread.join(self._target.timeout)
        self._close()

    def _close(self) -> None:
        try:
            self._writer.close()
        except (fl.FlightError, pa.ArrowException, OSError, KeyError):
            return  # the stream failed before, and that error was raised
