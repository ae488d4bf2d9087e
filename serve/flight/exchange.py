"""`Exchange`: one `DoExchange` stream. One thread reads batches and submits them; the call's thread writes the answers.

Reading on the writing thread would deadlock with a client that waits for each answer before it sends the next batch. gRPC
does not allow the call to return while the other thread reads. So after a failure the call waits for the client's next
message, half-close or cancellation. A client that itself waits for an answer gets the failure first, in the metadata of a
message without rows (`{"error": …}`).
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.flight as fl

from fletcher.runtime import Embeddings, TextOutputs
from fletcher.runtime.errors import DeadlineError, FletcherError, InputError, StoppingError
from fletcher.runtime.inputs import Texts

from ..arrow.batches import choose_column, output_schema, read_texts, with_vectors
from ..arrow.options import ArrowOptions
from ..engine.embed_request import EmbedRequest
from ..engine.fairness.read_ahead import ReadAhead
from ..engine.terms import Terms
from ..errors import UnknownModelError
from ..models.description import ModelDescription
from ..models.registry import ANSWERED_BY, Models
from ..models.spaces import require_space
from ..models.version import ModelVersion
from ..observe.requests import RecordDraft
from ..statuses import public_message
from .bounds import FlightBounds
from .charging import charge
from .middleware import caller_of
from .options import read_options

__all__ = ["BATCH_COPIES", "Exchange", "Stream", "wait"]

#: Seconds between two checks that the client is still connected.
LOOK_SECONDS = 0.25

#: Copies of a record batch that is read: its columns, and its texts as strings, which may take four bytes per character.
BATCH_COPIES = 5

#: Seconds that the reader may take to notice that the stream failed, before the client gets the failure inside the stream.
GRACE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Pending:
    """A batch that was submitted and is not answered yet."""

    batch: Any
    schema: Any
    ipc: Any
    version: ModelVersion
    future: Future[Embeddings | TextOutputs]


@dataclass(frozen=True, slots=True)
class _End:
    """End of the reading. `error` is None if the client ended the stream."""

    error: Exception | None


@dataclass(frozen=True, slots=True)
class Stream:
    """pyarrow's side of a `DoExchange` or `DoPut` call.

    Attributes:
        reader: the call's `MetadataRecordBatchReader`.
        writer: the call's `MetadataRecordBatchWriter`, or its `FlightMetadataWriter`.
        context: the call's `ServerCallContext`.
    """

    reader: Any
    writer: Any
    context: Any


class Exchange:
    """A stream in progress.

    Attributes:
        rows: number of rows that were read so far.
    """

    def __init__(
        self,
        models: Models,
        options: ArrowOptions,
        stream: Stream,
        terms: Terms,
        draft: RecordDraft,
        bounds: FlightBounds,
    ) -> None:
        """Create the exchange. `run` answers the stream.

        Args:
            models: models of the server.
            options: options in the descriptor.
            stream: pyarrow's side of the call.
            terms: terms of the first part of the stream.
            draft: draft of the call's record.
            bounds: limits of record batches, and the budget that holds them.
        """
        self._bounds = bounds
        self._models = models
        self._options = options
        self._reader = stream.reader
        self._writer = stream.writer
        self._context = stream.context
        self._terms = terms
        self._draft = draft
        self._pending: queue.Queue[_Pending | _End] = queue.Queue()
        self._unanswered = 0
        self._held: deque[int] = deque()
        self._ahead: ReadAhead
        self._answered = threading.Condition()  # also guards `_ahead`
        self._ended = False
        self._begun = False
        self._digest = ""
        self.rows = 0

    @property
    def idle(self) -> bool:
        """True if every batch that was read is answered."""
        return not self._unanswered

    def run(self) -> None:
        """Answer batches until the client has sent its last one.

        Raises:
            FletcherError: the stream cannot continue.
        """
        thread = threading.Thread(target=self._read_all, name="fletcher-flight-read", daemon=True)
        thread.start()
        try:
            self._write_all()
        except FletcherError as error:
            self._send_failure(error, thread)
            raise
        finally:
            self._end_reading()
            while thread.is_alive():
                self._discard()
                thread.join(GRACE_SECONDS)
            self._discard()
            self._bounds.budget.hold(-sum(self._held))

    def _read_all(self) -> None:
        """Read until the stream ends or fails. Then queue an `_End` for the writing thread."""
        try:
            self._read_batches()
        except StopIteration:
            end = _End(None)
        except FletcherError as error:
            end = _End(error)
        except (pa.ArrowException, fl.FlightError, OSError, ValueError) as error:
            # The client disconnected, or it sent something that is not an Arrow stream.
            end = _End(InputError(f"the stream could not be read: {str(error).partition('. gRPC')[0]}"))
        except Exception as error:  # noqa: BLE001 (a defect in this code: the call's thread gets it and raises it)
            end = _End(error)
        else:
            end = _End(None)
        self._pending.put(end)

    def _read_batches(self) -> None:
        """Read and submit every batch. Return if the writing thread failed; raise `StopIteration` at the stream's end."""
        options = self._options
        schema = column = name = None
        while True:
            chunk = self._reader.read_chunk()
            if self._ended:
                return
            if chunk.app_metadata is not None and schema is None:
                options = read_options(chunk.app_metadata.to_pybytes(), self._models)
            if chunk.data is None:
                continue
            if column is None:
                column = choose_column(chunk.data.schema, options)
                served, schema = self._begin_schema(chunk.data.schema, options)
                # One version answers the whole stream, because the schema names the version.
                name = f"{served.name}@{served.version}"
                self._digest = served.digest
            size = chunk.data.nbytes
            self._draft.bytes_in += size
            self._bounds.check(size, "record batch")
            row_bytes = 4 * served.dimension * chunk.data.num_rows
            if options.include is not None:  # a token has at most about one byte of text
                row_bytes += 4 * (served.token_dimension + 3) * min(size, served.max_tokens * chunk.data.num_rows)
            if not self._bounds.hold_part(held := BATCH_COPIES * size + row_bytes, lambda: self._ended):
                return
            self._held.append(held)
            texts = read_texts(chunk.data, column, self.rows)
            with self._answered:
                self._ahead.begin(texts)
            version, future = self._submit(texts, options, name)
            self.rows += len(texts)
            self._unanswered += 1
            self._pending.put(_Pending(chunk.data, schema, options.ipc, version, future))
            with self._answered:  # the client's own writing waits, because nothing more is read
                self._answered.wait_for(lambda: self._ended or not self._ahead.full)

    def _begin_schema(self, schema: Any, options: ArrowOptions) -> tuple[ModelDescription, Any]:
        """Return the model that answers and the schema of the answers, and refuse other spaces' vectors from now on.

        Raises:
            SpaceError: the vectors would be of another space than the client accepts.
        """
        request = EmbedRequest(Texts(()), options.embed, options.output, terms=self._terms)
        version = self._models.pick(options.model, ANSWERED_BY[options.output], request)
        if self._terms.spaces:
            require_space(version, request)
        self._ahead = ReadAhead(version.info)
        space = version.spaces.of(options.embed, options.output)
        self._terms = self._terms.within(space)
        return version.description, output_schema(schema, version.description, options.embed, space, options.output)

    def _submit(
        self, texts: list[str], options: ArrowOptions, name: str | None
    ) -> tuple[ModelVersion, Future[Embeddings | TextOutputs]]:
        """Submit one batch. If the queue is full, the batch waits for room."""
        request = EmbedRequest(Texts(tuple(texts)), options.embed, options.output, terms=self._terms)
        if (permit := caller_of(self._context).permit) is not None:
            self._pause(charge(permit, request, self._models.pick(name, ANSWERED_BY[options.output])))
        self._terms = self._terms.at(self._terms.part + 1)
        try:
            return self._models.submit_blocking(name, request, self._draft)
        except UnknownModelError:
            if name == options.model:
                raise
            # The version was unloaded during the stream: use another one.
            return self._models.submit_blocking(options.model, request, self._draft)

    def _pause(self, seconds: float) -> None:
        """Wait because the client is over its rate; nothing more is read meanwhile."""
        with self._answered:
            self._answered.wait_for(lambda: self._ended, seconds)

    def _write_all(self) -> None:
        """Write the answers of the batches, in order."""
        while True:
            pending = self._pending.get()
            if isinstance(pending, _End):
                if pending.error is not None:
                    raise pending.error
                if not self._begun:
                    self._begin_empty()
                return
            embeddings = wait(pending.future, self._context, self._terms.deadline)
            if not self._begun:
                self._writer.begin(pending.schema, options=pending.ipc)
                self._begun = True
            served = pending.version.description
            self._draft.count(served.name, served.version, embeddings)
            if (permit := caller_of(self._context).permit) is not None:
                permit.correct(int(embeddings.tokens.sum()))
            answer = with_vectors(pending.batch, embeddings, pending.schema)
            self._draft.bytes_out += answer.nbytes
            if served.digest == self._digest:
                self._writer.write_batch(answer)
            else:  # the model was replaced during the stream: the schema, which was sent, names the version before
                notice = {"model": {"version": served.version, "digest": served.digest, "variant": served.variant}}
                self._writer.write_with_metadata(answer, pa.py_buffer(msgspec.json.encode(notice)))
            self._unanswered -= 1
            self._bounds.budget.hold(-self._held.popleft())
            with self._answered:
                self._ahead.end(int(embeddings.tokens.sum()))
                self._answered.notify()

    def _end_reading(self) -> None:
        """Let the reading thread end after its present message."""
        with self._answered:
            self._ended = True
            self._answered.notify()

    def _begin_empty(self) -> None:
        """Answer a stream without batches: send a schema and no batch."""
        schema = self._reader.schema
        choose_column(schema, self._options)
        self._writer.begin(self._begin_schema(schema, self._options)[1])

    def _send_failure(self, error: FletcherError, thread: threading.Thread) -> None:
        """Send a failure to a client that waits for an answer before it sends or closes anything."""
        self._end_reading()
        self._discard()
        thread.join(GRACE_SECONDS)
        if not thread.is_alive() or not self._begun:
            return
        notice = {"error": {"type": type(error).__name__, "message": public_message(error)}}
        try:
            self._writer.write_metadata(pa.py_buffer(msgspec.json.encode(notice)))
        except (pa.ArrowException, fl.FlightError, OSError):
            return  # the client disconnected, so the reading thread ends

    def _discard(self) -> None:
        """Drop the batches that wait, so that the reading thread never waits for space in the queue."""
        while True:
            try:
                pending = self._pending.get_nowait()
            except queue.Empty:
                return
            if isinstance(pending, _Pending):
                pending.future.cancel()
                self._unanswered -= 1


def wait(future: Future[Embeddings | TextOutputs], context: Any, deadline: float | None) -> Embeddings | TextOutputs:
    """Wait for an answer until the deadline, or until the client disconnects.

    gRPC cancels a call after the deadline that the client gave to gRPC.

    Args:
        future: the engine's future.
        context: pyarrow's `ServerCallContext`.
        deadline: time by `time.monotonic()` at which the client stops waiting, or None.

    Raises:
        StoppingError: the client disconnected.
        DeadlineError: the deadline passed.
    """
    while True:
        left = LOOK_SECONDS if deadline is None else deadline - time.monotonic()
        try:
            return future.result(max(min(left, LOOK_SECONDS), 0.0))
        except FutureTimeoutError:
            if left <= 0:
                future.cancel()
                raise DeadlineError("the call's deadline passed before it was answered") from None
            if context.is_cancelled():
                future.cancel()
                raise StoppingError("the client disconnected") from None
