"""Ingestion through the server: clients send texts to Fletcher, which writes them to a dataset of Longbow.

A server does not keep a journal: the client gives the id of a document, or the id is derived from the content. A response
means that Longbow acknowledged the rows. If a client repeats a request after an error, a row may be stored twice. The
command `ingest` counts documents and can resume.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from fletcher.runtime.errors import DeadlineError, FletcherError, InputError, OverloadedError
from fletcher.runtime.inputs import Texts
from fletcher.runtime.options.embed import EmbedOptions

from ..engine.embed_request import EmbedRequest
from ..engine.terms import Terms
from ..errors import FieldError
from ..models.registry import Models
from ..observe.requests import RecordDraft
from .ingest_request import Document, IngestAnswer
from .journal.ids import candidate, digester, key_of, whole_number
from .options import SinkOptions
from .wire.connection import Connection
from .wire.presence import metadata_head
from .wire.schema import check_schema, longbow_schema, make_batch, widen
from .wire.sink import Parcel, Sink
from .wire.target import Target

__all__ = ["LongbowDoor"]

#: Datasets to which streams are open. Each has four threads and a connection.
MAX_CHANNELS: Final = 32


class _Waiting:
    """Ledger of a server's sink: the futures of the parcels that were sent."""

    def __init__(self) -> None:
        self.futures: dict[int, Future[None]] = {}

    def sending(self, unit: int) -> None:
        """Do nothing."""

    def acked(self, unit: int) -> None:
        future = self.futures.pop(unit, None)
        if future is not None and not future.done():
            future.set_result(None)


@dataclass(slots=True)
class _Channel:
    """The sink of a dataset, its ledger, and the number of requests that use it."""

    sink: Sink
    waiting: _Waiting
    users: int = 0


class LongbowDoor:
    """Connection of the server to Longbow: it embeds texts and writes them. Safe to use from any thread."""

    def __init__(self, target: Target) -> None:
        """Create the connection. It is opened by the first request.

        Args:
            target: address of Longbow.
        """
        self.target = target
        self._channels: dict[tuple[str, int], _Channel] = {}
        self._lock = threading.Lock()
        self._unit = 0
        self._marks = secrets.token_hex(6)

    def ingest(
        self,
        models: Models,
        name: str | None,
        dataset: str,
        documents: Sequence[Document],
        options: EmbedOptions,
        terms: Terms,
        draft: RecordDraft,
    ) -> IngestAnswer:
        """Embed documents and wait until Longbow has acknowledged them.

        Args:
            models: the models of the server.
            name: name of the model; None is the first model that gives vectors.
            dataset: name of the dataset in Longbow.
            documents: documents to ingest.
            options: options of embedding.
            terms: terms of a part of a stream, which waits while the queue is full.
            draft: draft of the request's record; its id is stored in the metadata of the rows.

        Raises:
            InputError: the documents, the options or the dataset cannot be used.
            OverloadedError: Longbow failed a moment ago.
            ServiceError: Longbow cannot be reached.
        """
        if not dataset:
            raise FieldError("the dataset has no name", "dataset")
        with ExitStack() as used:
            while True:  # repeat if the model is replaced or loaded at the same time
                version = models.pick(name, request=EmbedRequest(Texts(()), options, terms=terms))
                space = version.spaces.of(options)
                model = version.description
                ids, rows = _ids(documents, f"{model.digest} {model.variant} {options.identity}")
                if not rows:
                    return IngestAnswer(dataset, ids, 0, len(documents), 0, space)
                dimension = options.dimensions or model.dimension
                channel = self._channel(dataset, dimension)
                used.callback(self._release, channel)
                channel.sink.breaker.check(f"Longbow at {self.target.url}")
                chosen = [documents[row] for row in rows]
                texts = Texts(tuple(document.text for document in chosen))
                future = models.submit(version, EmbedRequest(texts, options, terms=terms), draft)
                if future is not None:
                    break
                if not version.retired:
                    version.wake()
            embeddings = future.result()
            draft.count(model.name, model.version, embeddings)
            vectors = widen(embeddings, allow_unnormalized=False)
            head = {
                "model": model.name,
                "digest": model.digest,
                "variant": model.variant,
                "space": space,
                "input_type": options.input_type or "document",
                "source": "server",
                "chunk": 0,
                "trace": draft.id,
            }
            if draft.trace is not None:
                head["traceparent"] = draft.trace.parent
            unit, mark = self._next_unit()
            begin = metadata_head(mark, head)
            metadata = [begin + _metadata_tail(document) for document in chosen]
            schema = longbow_schema(dimension, with_text=True)
            batch = make_batch(
                schema,
                np.array([ids[row] for row in rows], np.int64),
                vectors,
                texts.texts,
                metadata,
            )
            started = time.perf_counter()
            self._send(dataset, dimension, channel, Parcel(unit, mark, batch))
            if draft.trace is not None:
                attributes: dict[str, str | int] = {"fletcher.dataset": dataset, "fletcher.texts": len(rows)}
                draft.trace.stage("longbow", started, time.perf_counter(), attributes)
            tokens = int(embeddings.tokens.sum())
            return IngestAnswer(dataset, ids, len(rows), len(documents) - len(rows), tokens, space)

    def _channel(self, dataset: str, dimension: int) -> _Channel:
        with self._lock:
            if (dataset, dimension) in self._channels:
                self._channels[dataset, dimension] = self._channels.pop((dataset, dimension))  # the latest is last
            else:
                self._make_room()
                waiting = _Waiting()
                schema = longbow_schema(dimension, with_text=True)
                self._check(dataset, schema)
                sink = Sink(self.target, dataset, schema, waiting, SinkOptions(patience=self.target.timeout))
                self._channels[dataset, dimension] = _Channel(sink, waiting)
            channel = self._channels[dataset, dimension]
            channel.users += 1
            return channel

    def _release(self, channel: _Channel) -> None:
        """Count a request that used a channel as ended."""
        with self._lock:
            channel.users -= 1

    def _make_room(self) -> None:
        """Close the stream to the dataset that was not written for the longest time, if there are many.

        Raises:
            OverloadedError: all of them are being written.
        """
        if len(self._channels) < MAX_CHANNELS:
            return
        idle = next((name for name, channel in self._channels.items() if not channel.users), None)
        if idle is None:
            raise OverloadedError(f"{MAX_CHANNELS} datasets are being written: retry after 1 s", 1.0)
        threading.Thread(target=self._channels.pop(idle).sink.close, daemon=True).start()

    def _check(self, dataset: str, schema: pa.Schema) -> None:
        with Connection(self.target) as connection:
            stored = connection.schema(dataset) if connection.readiness(dataset).status != "NOT_FOUND" else None
            if stored is not None:
                check_schema(dataset, stored, schema)

    def _next_unit(self) -> tuple[int, str]:
        """Return a number and a mark that are unique to a batch."""
        with self._lock:
            self._unit += 1
            return self._unit, f"{self._marks}-{self._unit}"

    def _send(self, dataset: str, dimension: int, channel: _Channel, parcel: Parcel) -> None:
        future: Future[None] = Future()
        channel.waiting.futures[parcel.unit] = future
        deadline = time.monotonic() + 2 * self.target.timeout
        try:
            channel.sink.send(parcel)
            while True:
                try:
                    future.result(0.25)
                    return
                except FutureTimeoutError:
                    channel.sink.check()
                    if time.monotonic() > deadline:
                        raise DeadlineError(
                            f"Longbow at {self.target.url} acknowledged nothing within {2 * self.target.timeout:g} s; "
                            "the rows may still arrive"
                        ) from None
        except FletcherError:
            channel.waiting.futures.pop(parcel.unit, None)
            with self._lock:  # remove a sink that cannot continue: the next request opens a new one
                if channel.sink.failed and self._channels.get((dataset, dimension)) is channel:
                    del self._channels[dataset, dimension]
                    threading.Thread(target=channel.sink.close, daemon=True).start()
            raise

    def close(self) -> None:
        """Close the streams."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.sink.close()


def _metadata_tail(document: Document) -> str:
    """Return the end of a row's metadata, as JSON."""
    return f',"fields":{msgspec.json.encode(document.metadata).decode()}}}' if document.metadata else "}"


def _ids(documents: Sequence[Document], identity: str) -> tuple[list[int], list[int]]:
    """Return the id of each document, and the index of the first document of each id.

    Raises:
        FieldError: a document has no text, an id is out of range, or two texts have the same id.
    """
    digest = digester(identity.encode())
    ids: list[int] = []
    rows: list[int] = []
    first: dict[int, str] = {}
    for row, document in enumerate(documents):
        field = f"documents[{row}]"
        if not document.text or document.text.isspace():
            raise FieldError(f"{field} has no text", f"{field}.text")
        try:
            if document.id is None:
                number = candidate(digest(document.text), 0)
            elif isinstance(document.id, str):
                number = candidate(key_of(document.id), 0)
            else:
                number = whole_number(document.id)
        except UnicodeEncodeError:
            raise FieldError(f"{field} is not valid Unicode", f"{field}.text") from None
        except InputError as error:
            raise FieldError(f"{field}: {error}", f"{field}.id") from None
        ids.append(number)
        if number not in first:
            first[number] = document.text
            rows.append(row)
        elif first[number] != document.text:
            raise FieldError(f"{field} has the id {number}, which an earlier document with another text has", field)
    return ids, rows
