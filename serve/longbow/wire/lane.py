"""One lane of a sink: a connection with one stream at a time, and the recovery after a stream has failed."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from fletcher.runtime.errors import FletcherError, OverloadedError, ServiceError

from .connection import Connection
from .exchange import Exchange, Parcel
from .pacing import Backoff
from .presence import GRACE, arrived, wait_until_quiet
from .shared import Shared

__all__ = ["Lane"]

#: Seconds between two checks while a batch must wait.
HELD: Final = 0.5

logger = logging.getLogger("fletcher.serve.longbow")


class Lane:
    """Thread that sends parcels on one stream at a time."""

    def __init__(self, shared: Shared, connection: Connection) -> None:
        """Start the thread.

        Args:
            shared: state that the lanes of the sink share.
            connection: connection that only this lane uses.
        """
        self._shared = shared
        self._connection = connection
        self._stream: Exchange | None = None
        self._backoff = Backoff()
        self._again: list[Parcel] = []
        self._failing_since = 0.0
        self._thread = threading.Thread(target=self._run, name="fletcher-longbow", daemon=True)
        self._thread.start()

    def watch(self) -> None:
        """Cancel the stream if it is overdue."""
        stream = self._stream
        if stream is not None:
            stream.watch()

    def close(self) -> None:
        """Wait for the thread, which ends when the sink closes."""
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._shared.closing.is_set():
            parcels: list[Parcel] = []
            try:
                parcels = self._next()
                if parcels:
                    self._deliver(parcels)
                elif self._stream is not None and (self._stream.error is not None or self._is_old()):
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

    # A batch ----------------------------------------------------------------------------------------------------------

    def _is_old(self) -> bool:
        """Return whether all batches of the stream are acknowledged and a new stream must be opened."""
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
        """Return parcels that fit into one batch: first those to send again, then those that wait."""
        if self._again:
            parcels, self._again = self._again[:1], self._again[1:]
            return parcels
        waiting = self._shared.waiting
        try:
            first = waiting.get(timeout=0.05)
        except queue.Empty:
            return []
        parcels = [first]
        rows = first.batch.num_rows
        room = self._shared.sizer.rows(_row_bytes(first.batch))
        while rows < room:
            try:
                more = waiting.get_nowait()
            except queue.Empty:
                break
            parcels.append(more)
            rows += more.batch.num_rows
        return parcels

    def _deliver(self, parcels: list[Parcel]) -> None:
        shared = self._shared
        while (why := shared.hold()) or shared.breaker.remaining() > 0:
            self._note_failure()
            if shared.closing.wait(HELD if why else min(shared.breaker.remaining(), 1.0)):
                return
            if self._patience_ended():
                self._give_up(self._patience_error(why))
                return
        for parcel in parcels:
            for row in parcel.stale:
                self._connection.delete(shared.dataset, row)
        if self._stream is not None and self._stream.old:
            stream, self._stream = self._stream, None
            stream.finish()
        if self._stream is None:
            compression = None if shared.options.compression == "none" else shared.options.compression
            self._stream = Exchange(self._connection, shared.dataset, shared.schema, compression, shared.acked)
        for parcel in parcels:
            shared.ledger.sending(parcel.unit)
        rows = parcels[0].batch if len(parcels) == 1 else pa.concat_batches([parcel.batch for parcel in parcels])
        step = shared.sizer.rows(_row_bytes(rows))
        for start in range(0, rows.num_rows, step):
            part = rows.slice(start, step)
            done = parcels if start + step >= rows.num_rows else []
            self._stream.write(part, parcels, done)

    # Failures ---------------------------------------------------------------------------------------------------------

    def _patience_error(self, why: object) -> ServiceError:
        shared = self._shared
        return ServiceError(
            f"Longbow at {shared.target.url} has acknowledged nothing for {shared.options.patience:g} s"
            f"{f': {why}' if why else ''}. The journal has all that was acknowledged: run the job again to continue"
        )

    def _patience_ended(self) -> bool:
        return time.monotonic() - self._failing_since > self._shared.options.patience

    def _note_failure(self) -> None:
        """Note a failure or a delay. `patience` counts from the first one after the last acknowledgment."""
        if self._failing_since <= self._shared.last_ack:
            self._failing_since = time.monotonic()
            self._backoff.succeed()

    def _recover(self, error: FletcherError, parcels: list[Parcel]) -> None:
        """Recover from a failure: wait, check which rows arrived, and queue the others to be sent again."""
        shared = self._shared
        shared.retries += 1
        self._note_failure()
        doubt: list[Parcel] = []
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.abort()
            doubt = stream.unacked()
        settled = time.monotonic() + GRACE if doubt else 0.0
        logger.warning("a stream to Longbow failed", extra={"fields": {"reason": str(error), "in_doubt": len(doubt)}})
        self._again = [*(parcel for parcel in parcels if parcel not in doubt), *self._again]
        while not shared.closing.is_set():
            try:
                if self._patience_ended():
                    self._give_up(self._patience_error(error))
                    return
                shared.breaker.fail()
                wait = max(self._backoff.fail(), shared.breaker.remaining(), settled - time.monotonic())
                left = self._failing_since + shared.options.patience - time.monotonic()
                if shared.closing.wait(max(min(wait, left), 0.0) + 0.01):
                    return
                self._again = [*self._not_arrived(doubt), *self._again]
                return
            except ServiceError as again:
                error = again
            except (FletcherError, OSError) as fatal:
                self._give_up(fatal)
                return

    def _not_arrived(self, doubt: Sequence[Parcel]) -> list[Parcel]:
        """Wait until Longbow has stored what it received. Return the rows of parcels in doubt that it does not have.

        Raises:
            ServiceError, InputError: Longbow does not answer; call again.
        """
        if not doubt:
            return []
        shared = self._shared
        wait_until_quiet(self._connection, shared.dataset, shared.target.timeout)
        unsent = [_without(parcel, arrived(self._connection, shared.dataset, parcel.mark)) for parcel in doubt]
        self._backoff.succeed()
        shared.breaker.succeed()
        complete = [parcel for parcel in unsent if not parcel.batch.num_rows]
        if complete:  # rows that arrived count as an acknowledgment for `patience`
            shared.acked(complete, 0, 0.0)
        return [parcel for parcel in unsent if parcel.batch.num_rows]

    def _give_up(self, error: FletcherError | OSError) -> None:
        self._shared.fail(error)
        self._shared.closing.wait()


def _row_bytes(batch: pa.RecordBatch) -> float:
    return float(batch.nbytes / max(batch.num_rows, 1))


def _without(parcel: Parcel, there: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Parcel:
    """Return a parcel without the rows that Longbow has. Stale rows were deleted before its first row was sent."""
    keep = ~np.isin(parcel.batch.column("id").to_numpy(), there)
    return replace(parcel, batch=parcel.batch.filter(pa.array(keep)), stale=())
