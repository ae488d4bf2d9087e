"""One stream of record batches to Longbow, with an acknowledgement for each: `DoExchange ["ingest", dataset]`."""

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

#: Batches and bytes that may wait for their acknowledgement: enough that the network is never idle.
WINDOW_BATCHES: Final = 4
WINDOW_BYTES: Final = 16 * 2**20

#: Seconds after which a stream is ended in good order and another one opened: gRPC's deadline covers a whole stream.
LIFETIME: Final = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """Rows that the journal knows as one unit.

    Attributes:
        unit: its number in the journal.
        mark: what the metadata of its rows begin with, no other parcel's.
        batch: the rows, with the columns of `longbow_schema`.
        stale: ids whose former rows must be deleted before.
    """

    unit: int
    mark: str
    batch: pa.RecordBatch
    stale: Sequence[int] = ()


@dataclass(slots=True)
class _Sent:
    """A batch on its way."""

    rows: int
    size: int
    done: Sequence[Parcel]
    at: float


class Exchange:
    """A stream from its first batch to its last acknowledgement; one thread writes."""

    def __init__(
        self,
        connection: Connection,
        dataset: str,
        schema: pa.Schema,
        compression: str | None,
        on_ack: Callable[[Sequence[Parcel], int, float], None],
    ) -> None:
        """Opens the stream.

        Args:
            connection: what carries it.
            dataset: where the rows go.
            schema: of every batch.
            compression: lz4, zstd or None.
            on_ack: called for each acknowledged batch on the stream's reading thread: the parcels that it completes, its
                rows, and the seconds that it took.

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
        """Whether everything was acknowledged."""
        return not self._sent

    @property
    def old(self) -> bool:
        """Whether it is time for another stream."""
        return time.monotonic() - self.opened > LIFETIME

    def write(self, batch: pa.RecordBatch, parcels: Sequence[Parcel], done: Sequence[Parcel]) -> None:
        """Sends a batch; waits while too much is unacknowledged.

        Args:
            batch: rows.
            parcels: those that it has rows of.
            done: those that are complete with it.

        Raises:
            ServiceError, InputError: the stream failed, now or before; `unacked` says what is in doubt.
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
        """The error to tell: the reading side has the server's own message, a little later than the writing side fails."""
        if threading.current_thread() is not self._thread:
            self._thread.join(self._target.timeout)
        with self._changed:
            if self.error is None:
                self.error = error
            return self.error

    def _read(self) -> None:
        """The reading thread's life."""
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
        except Exception as error:  # noqa: BLE001 (a defect must reach the writer, who would wait for ever)
            self._fail(ServiceError(f"an acknowledgement could not be taken: {type(error).__name__}: {error}"))

    def _fail(self, error: FletcherError) -> None:
        with self._changed:
            if self._late:
                error = DeadlineError(
                    f"Longbow at {self._target.url} did not acknowledge a batch within {self._target.timeout:g} s. It blocks "
                    "without a word when its memory is over 90 % full: look at longbow_gc_tuner_heap_utilization"
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
                self._sent[0].at = max(self._sent[0].at, time.monotonic())  # its turn begins now
            self._changed.notify_all()
        self._on_ack(sent.done, sent.rows, time.monotonic() - sent.at)

    def watch(self) -> None:
        """Ends the stream if its oldest batch is overdue; to be called now and then by another thread."""
        with self._changed:
            late = self._sent and time.monotonic() - self._sent[0].at > self._target.timeout
            if not late or self._late:
                return
            self._late = True
        self._reader.cancel()

    def unacked(self) -> list[Parcel]:
        """Parcels of which something was sent and not everything acknowledged."""
        with self._changed:
            return list(self._owed)

    def finish(self) -> None:
        """Says that no more comes, and waits for the last acknowledgement.

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
        """Gives the stream up."""
        self._reader.cancel()
        self._thread.join(self._target.timeout)
        self._close()

    def _close(self) -> None:
        try:
            self._writer.close()
        except (fl.FlightError, pa.ArrowException, OSError, KeyError):
            return  # it failed before; that error was told
