"""`RowsServer`: the engine process's side of the channel: rows of the fronts in, their values out, on one event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from fletcher.runtime import Encodings
from fletcher.runtime.artifact.folder import QUERY_WEIGHTS, TOKENIZER, hash_file
from fletcher.runtime.artifact.outputs import ValueRows
from fletcher.runtime.errors import ArtifactError, FletcherError, ServiceError, StoppingError

from ...engine.rows_request import RowsRequest
from ...engine.terms import Terms
from ...models.registry import Models
from ...models.version import ModelVersion
from ...observe.pages import add_pages, counts_of
from ...observe.requests import RecordDraft
from .errors import failure_of
from .frames import FrameProtocol
from .wire import (
    Cancel,
    Catalog,
    CatalogEntry,
    CatalogTaken,
    Frame,
    Message,
    Page,
    PageRequest,
    ProtocolError,
    Rows,
    encode,
    rows_request,
    values_frame,
)

__all__ = ["RowsServer"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Largest message, in tokens, that is submitted together with others. A larger one is worth a request of its own, and
#: batches are formed of requests.
SMALL_TOKENS: Final = 512

#: Tokens of messages that are submitted as one request.
GATHER_TOKENS: Final = 4096

#: Seconds for which a scrape waits for the fronts' metrics; a front that hangs is left out.
PAGE_SECONDS: Final = 1.0


class RowsServer:
    """Listens for fronts on a Unix socket. Safe to use from any thread between `start` and `stop`."""

    def __init__(self, models: Models, path: Path, *, drain_seconds: float) -> None:
        """Prepare the server.

        Args:
            models: models that compute; their changes are announced to the fronts.
            path: the Unix socket. Copies of the tokenizers lie beside it.
            drain_seconds: seconds that fronts may take to stop using a version that goes.
        """
        self.models = models
        self._path = path
        self._drain_seconds = drain_seconds
        self.loop = uvloop.new_event_loop()
        models.metrics.gauge(
            "fletcher_fronts", "Front processes that are connected to the engine process", lambda: len(self._fronts)
        )
        self._fronts: set[_Front] = set()
        #: Versions that fronts may use: those of the latest catalog and, until every front has taken it, earlier ones.
        self._versions: dict[tuple[str, str, str], ModelVersion] = {}
        self._numbers = itertools.count(1)
        self._answered: deque[tuple[_Group, Future[Any]]] = deque()
        self._gathered: dict[tuple[ModelVersion, str | None, ValueRows | None, bool, Terms], list[_Part]] = {}
        self._gathered_tokens = 0
        self._flushing = False
        self._scheduled = False
        self._left = b""  # counts of the fronts that have left
        self._waking: set[asyncio.Task[None]] = set()
        self._listening = threading.Event()
        self._problem: BaseException | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._serve, name="fletcher-rows", daemon=True)

    def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Listen, and announce every change of the models from now on.

        Args:
            on_change: called after a change was announced to the fronts.

        Raises:
            ServiceError: the socket cannot be made.
        """
        self._thread.start()
        self._listening.wait()
        if self._problem is not None:
            raise ServiceError(f"the channel for fronts cannot be opened: {self._problem}") from self._problem
        self._on_change = on_change
        self.models.on_change = self._announce

    def stop(self) -> None:
        """Close every connection."""
        self.models.on_change = lambda: None
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            try:
                server = self.loop.run_until_complete(
                    self.loop.create_unix_server(lambda: _Front(self).protocol, str(self._path))
                )
            except BaseException as error:  # noqa: BLE001 (`start` raises it)
                self._problem = error
                return
            finally:
                self._listening.set()
            self.loop.run_forever()
            server.close()
            for front in [*self._fronts]:
                if front.protocol.transport is not None:
                    front.protocol.transport.abort()
            self.loop.run_until_complete(asyncio.sleep(0))
        finally:
            self.loop.close()

    # Fronts ------------------------------------------------------------------------------------------------------------

    def join(self, front: _Front) -> None:
        """Add a front that has connected."""
        self._fronts.add(front)
        catalog = self._catalog()
        front.announce(catalog.number, encode(catalog))

    def leave(self, front: _Front) -> None:
        """Forget a front that has left, but not its counts: a sum of counters must not decrease."""
        self._fronts.discard(front)
        if front.page:
            self._left = add_pages(self._left, [counts_of(front.page)])

    def _catalog(self) -> Catalog:
        entries = []
        for model in self.models.named:
            for version in model.versions:
                if version.spec.shadow:  # only the engine process sends requests to it
                    continue
                self._versions[_key(version)] = version
                spec = msgspec.structs.replace(version.spec, idle_seconds=None, allow_fallback=False)
                info = version.info
                weights = self._publish(version, QUERY_WEIGHTS, info.query_weights) if info.query_weights else ""
                entries.append(CatalogEntry(spec, info, self._publish(version, TOKENIZER, info.tokenizer), weights))
        return Catalog(next(self._numbers), tuple(entries))

    def _publish(self, version: ModelVersion, name: str, digest: str) -> str:
        """Return a copy of a version's file. A front that starts later needs it even if the folder was exchanged.

        Args:
            version: the version.
            name: name of the file in the artifact.
            digest: SHA-256 of the file that was loaded.

        Raises:
            ArtifactError: the folder has been exchanged since the version was loaded.
        """
        copy = self._path.with_name(f"{digest}.{name}")
        if not copy.exists():
            original = Path(version.spec.path, name)
            unfinished = copy.with_suffix(".partial")
            shutil.copyfile(original, unfinished)
            if hash_file(unfinished) != digest:
                raise ArtifactError(f"{original} has changed since its model was loaded: load the model again")
            unfinished.rename(copy)
        return str(copy)

    def _announce(self) -> None:
        """Send the versions to every front, and wait until no front uses another one. Runs on the changing thread."""
        asyncio.run_coroutine_threadsafe(self._send_catalog(), self.loop).result()
        self._on_change()

    async def _send_catalog(self) -> None:
        catalog = self._catalog()
        frame = encode(catalog)
        taken = [front.announce(catalog.number, frame) for front in self._fronts]
        if taken:
            _, late = await asyncio.wait(taken, timeout=self._drain_seconds)
            if late:
                logger.warning("fronts did not take the new models", extra={"fields": {"fronts": len(late)}})
        present = {_key(version) for model in self.models.named for version in model.answering}
        self._versions = {key: version for key, version in self._versions.items() if key in present}

    def pages(self) -> list[bytes]:
        """Return the metrics of every front in Prometheus' text format, and the counts of those that have left.

        A front that does not answer in time takes part with its last answer. Call it on another thread than the loop's.
        """
        return asyncio.run_coroutine_threadsafe(self._pages(), self.loop).result()

    async def _pages(self) -> list[bytes]:
        waiting = [front.request_page(next(self._numbers)) for front in self._fronts]
        if waiting:
            await asyncio.wait(waiting, timeout=PAGE_SECONDS)
        return [self._left, *(front.page for front in self._fronts)]

    # Requests ----------------------------------------------------------------------------------------------------------

    def compute(self, front: _Front, message: Rows, payload: memoryview) -> None:
        """Submit the rows of a message, perhaps together with those of others; answer it when they are computed."""
        deadline = None if message.seconds is None else time.monotonic() + message.seconds
        terms = Terms(message.priority, message.client, deadline, message.stream, message.part, salt=message.salt)
        request = rows_request(message, payload, terms)
        part = _Part(front, message.id, request)
        front.open[message.id] = part
        try:
            version = self._version(message)
        except FletcherError as error:
            self._fail(part, error)
            return
        if deadline is not None or message.stream or message.tokens > SMALL_TOKENS:
            self._submit(version, [part])
            return
        kind = version, message.output, message.value_rows, message.has_types, terms
        self._gathered.setdefault(kind, []).append(part)
        self._gathered_tokens += message.tokens
        if self._gathered_tokens > GATHER_TOKENS:
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Submit the messages that arrived in this turn of the loop: those of one kind as one request."""
        self._flushing = False
        gathered, self._gathered, self._gathered_tokens = self._gathered, {}, 0
        for (version, *_), parts in gathered.items():
            self._submit(version, parts)

    def _submit(self, version: ModelVersion, parts: list[_Part]) -> None:
        """Submit the rows of messages as one request."""
        request = parts[0].request
        if len(parts) > 1:
            request = RowsRequest(
                Encodings.concatenate([part.request.encodings for part in parts]),
                request.output,
                request.rows,
                sum(part.request.requests for part in parts),
                request.terms,
            )
        draft = RecordDraft(door="http", id="")
        try:
            future = self.models.submit(version, request, draft)
        except FletcherError as error:
            self._refuse(version, parts, error)
            return
        if future is None:
            self._wake(version, parts)
            return
        group = _Group(version, parts, draft)
        for part in parts:
            part.future, part.group = future, parts
        future.add_done_callback(partial(self._arrive, group))

    def _version(self, message: Rows) -> ModelVersion:
        """Return the version whose tokenizer made the rows.

        Raises:
            StoppingError: it is not served any more.
        """
        version = self._versions.get((message.model, message.version, message.digest))
        if version is None:
            raise StoppingError(f"the version {message.model}@{message.version} was replaced: send the request again")
        return version

    def _wake(self, version: ModelVersion, parts: list[_Part]) -> None:
        """Load a version that sleeps, and submit the rows then."""

        async def wake() -> None:
            try:
                await asyncio.wrap_future(version.wake_soon())
                if version.retired:
                    raise StoppingError(f"the model {version.spec.name} was unloaded: send the request again")
            except FletcherError as error:
                for part in parts:
                    self._fail(part, error)
            else:
                self._submit(version, parts)

        task = self.loop.create_task(wake())
        self._waking.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._waking.discard)

    def _refuse(self, version: ModelVersion, parts: list[_Part], error: BaseException) -> None:
        """Fail messages; if computing several failed, compute each alone, so that one cannot fail others."""
        if len(parts) > 1 and not isinstance(error, ServiceError):
            for part in parts:
                self._submit(version, [part])
            return
        for part in parts:
            self._fail(part, error)

    def cancel(self, part: _Part) -> None:
        """Note that a message was cancelled; cancel the request if that holds for all its messages."""
        part.cancelled = True
        future = part.future
        if future is not None and all(other.cancelled for other in part.group):
            future.cancel()

    def _fail(self, part: _Part, error: BaseException) -> None:
        """Answer a message with an error."""
        part.front.open.pop(part.id, None)
        part.front.send(encode(failure_of(part.id, error)))

    def _arrive(self, group: _Group, future: Future[Any]) -> None:
        """Queue an answer and wake the loop; runs on an engine's thread. `Bridge` in http does the same for one process."""
        self._answered.append((group, future))
        if not self._scheduled:
            self._scheduled = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: the process stops
                return

    def _deliver(self) -> None:
        """Send every queued answer: those of one front in one write."""
        self._scheduled = False  # first, so that an answer that arrives while this method ends wakes the loop again
        frames: dict[_Front, list[Frame]] = {}
        while self._answered:
            group, future = self._answered.popleft()
            if future.cancelled():
                for part in group.parts:
                    part.front.open.pop(part.id, None)
                continue
            if (error := future.exception()) is not None:
                self._refuse(group.version, group.parts, error)
                continue
            values, start, stages = future.result(), 0, group.draft.stages
            for part in group.parts:
                encodings = part.request.encodings
                each = part.request.rows
                end = start + (len(encodings) if each is None else each.count(encodings))
                part.front.open.pop(part.id, None)
                frame = values_frame(part.id, values[start:end], stages.wait, stages.compute)
                frames.setdefault(part.front, []).append(frame)
                start = end
        for front, several in frames.items():
            front.protocol.write(several)


@dataclass(slots=True, eq=False)
class _Part:
    """One message of a front.

    Attributes:
        front: the front.
        id: number of the message.
        request: its rows.
        future: answer of the request that its rows are a part of; None before it was submitted.
        group: the messages of that request.
        cancelled: whether the front does not wait for it any more.
    """

    front: _Front
    id: int
    request: RowsRequest
    future: Future[Any] | None = None
    group: Sequence[_Part] = ()
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class _Group:
    """Messages that are computed as one request, and the record that receives its stages."""

    version: ModelVersion
    parts: list[_Part]
    draft: RecordDraft


def _key(version: ModelVersion) -> tuple[str, str, str]:
    return version.spec.name, version.spec.version, version.info.digest


class _Front:
    """One connected front. Its methods run on the loop's thread.

    Attributes:
        protocol: its connection.
        open: its messages that are not answered.
        page: its metrics at the last scrape, empty before.
    """

    def __init__(self, server: RowsServer) -> None:
        self.protocol = FrameProtocol(self._on_frame, self._on_end, self._on_begin, self._on_congestion)
        self.open: dict[int, _Part] = {}
        self.page = b""
        self._server = server
        self._catalogs: dict[int, asyncio.Future[None]] = {}
        self._pages: dict[int, asyncio.Future[None]] = {}

    def send(self, frame: Frame) -> None:
        """Write one frame."""
        self.protocol.write([frame])

    def announce(self, number: int, frame: Frame) -> asyncio.Future[None]:
        """Send a catalog; return a future that ends when the front has taken it, or has left."""
        future: asyncio.Future[None] = self._server.loop.create_future()
        self._catalogs[number] = future
        self.send(frame)
        return future

    def request_page(self, number: int) -> asyncio.Future[None]:
        """Ask for the front's metrics; return a future that ends when they have come, or the front has left."""
        future: asyncio.Future[None] = self._server.loop.create_future()
        self._pages[number] = future
        self.send(encode(PageRequest(number)))
        return future

    def _on_begin(self) -> None:
        self._server.join(self)

    def _on_congestion(self) -> None:
        """Take no more rows from a front that does not read its answers, so that few answers wait for it here."""
        if self.protocol.transport is None:
            return
        if self.protocol.congested:
            self.protocol.transport.pause_reading()
        else:
            self.protocol.transport.resume_reading()

    def _on_frame(self, message: Message, payload: memoryview) -> None:
        if isinstance(message, Rows):
            self._server.compute(self, message, payload)
        elif isinstance(message, Cancel):
            if (part := self.open.get(message.id)) is not None:
                self._server.cancel(part)
        elif isinstance(message, CatalogTaken):
            # A later catalog includes every earlier one.
            for number in [number for number in self._catalogs if number <= message.number]:
                _end(self._catalogs.pop(number))
        elif isinstance(message, Page):
            self.page = bytes(payload)
            if (page := self._pages.pop(message.id, None)) is not None:
                _end(page)
        else:
            raise ProtocolError(f"a front sent a message of the engine's: {type(message).__name__}")

    def _on_end(self) -> None:
        self._server.leave(self)
        for part in [*self.open.values()]:
            self._server.cancel(part)
        for waiting in (*self._catalogs.values(), *self._pages.values()):
            _end(waiting)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
