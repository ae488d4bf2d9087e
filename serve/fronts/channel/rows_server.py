"""`RowsServer`: the engine process's side of the channel: rows of the fronts in, their values out, on one event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from fletcher.runtime.artifact.folder import TOKENIZER, hash_file
from fletcher.runtime.errors import ArtifactError, FletcherError, ServiceError, StoppingError

from ...engine.terms import Terms
from ...models.registry import Models
from ...models.version import ModelVersion
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
        self._fronts: set[_Front] = set()
        #: Versions that fronts may use: those of the latest catalog and, until every front has taken it, earlier ones.
        self._versions: dict[tuple[str, str, str], ModelVersion] = {}
        self._numbers = itertools.count(1)
        self._answered: deque[tuple[_Front, int, RecordDraft, Future[Any]]] = deque()
        self._scheduled = False
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
        """Forget a front that has left."""
        self._fronts.discard(front)

    def _catalog(self) -> Catalog:
        entries = []
        for model in self.models.named:
            for version in model.answering:
                self._versions[_key(version)] = version
                spec = msgspec.structs.replace(version.spec, idle_seconds=None, allow_fallback=False)
                entries.append(CatalogEntry(spec, version.info, self._publish_tokenizer(version)))
        return Catalog(next(self._numbers), tuple(entries))

    def _publish_tokenizer(self, version: ModelVersion) -> str:
        """Return a copy of a version's tokenizer. A front that starts later needs it even if the folder was exchanged.

        Raises:
            ArtifactError: the folder has been exchanged since the version was loaded.
        """
        copy = self._path.with_name(f"{version.info.tokenizer}.tokenizer.json")
        if not copy.exists():
            original = Path(version.spec.path, TOKENIZER)
            unfinished = copy.with_suffix(".partial")
            shutil.copyfile(original, unfinished)
            if hash_file(unfinished) != version.info.tokenizer:
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
        """Return the metrics of every front in Prometheus' text format. Call it on another thread than the loop's."""
        return asyncio.run_coroutine_threadsafe(self._pages(), self.loop).result()

    async def _pages(self) -> list[bytes]:
        waiting = [front.request_page(next(self._numbers)) for front in self._fronts]
        if not waiting:
            return []
        done, _ = await asyncio.wait(waiting, timeout=PAGE_SECONDS)
        return [future.result() for future in done if not future.cancelled()]

    # Requests ----------------------------------------------------------------------------------------------------------

    def compute(self, front: _Front, message: Rows, payload: memoryview) -> None:
        """Submit the rows of a message; answer it when they are computed."""
        deadline = None if message.seconds is None else time.monotonic() + message.seconds
        request = rows_request(message, payload, Terms(message.priority, message.client, deadline, message.patient))
        draft = RecordDraft(door="http", id="")
        try:
            version = self._version(message)
            future = self.models.submit(version, request, draft)
            if future is None:
                self._wake(front, message, payload, version)
                return
        except FletcherError as error:
            front.send(encode(failure_of(message.id, error)))
            return
        front.open[message.id] = future
        future.add_done_callback(partial(self._arrive, front, message.id, draft))

    def _version(self, message: Rows) -> ModelVersion:
        """Return the version whose tokenizer made the rows.

        Raises:
            StoppingError: it is not served any more.
        """
        version = self._versions.get((message.model, message.version, message.digest))
        if version is None:
            raise StoppingError(f"the version {message.model}@{message.version} was replaced: send the request again")
        return version

    def _wake(self, front: _Front, message: Rows, payload: memoryview, version: ModelVersion) -> None:
        """Load a version that sleeps, and submit the rows then."""

        async def wake() -> None:
            try:
                await self.loop.run_in_executor(None, version.wake)
                if version.retired:
                    raise StoppingError(f"the model {message.model} was unloaded: send the request again")
            except FletcherError as error:
                front.send(encode(failure_of(message.id, error)))
            else:
                self.compute(front, message, payload)

        task = self.loop.create_task(wake())
        self._waking.add(task)  # the loop itself holds its tasks weakly
        task.add_done_callback(self._waking.discard)

    def _arrive(self, front: _Front, number: int, draft: RecordDraft, future: Future[Any]) -> None:
        """Queue an answer and wake the loop; runs on an engine's thread. `Bridge` in http does the same for one process."""
        self._answered.append((front, number, draft, future))
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
            front, number, draft, future = self._answered.popleft()
            front.open.pop(number, None)
            if future.cancelled():
                continue
            error = future.exception()
            if error is None:
                frame = values_frame(number, future.result(), draft.stages.wait, draft.stages.compute)
            else:
                frame = encode(failure_of(number, error))
            frames.setdefault(front, []).append(frame)
        for front, several in frames.items():
            front.protocol.write(several)


def _key(version: ModelVersion) -> tuple[str, str, str]:
    return version.spec.name, version.spec.version, version.info.digest


class _Front:
    """One connected front. Its methods run on the loop's thread.

    Attributes:
        protocol: its connection.
        open: the futures of its messages that are not answered.
    """

    def __init__(self, server: RowsServer) -> None:
        self.protocol = FrameProtocol(self._on_frame, self._on_end, on_begin=self._on_begin)
        self.open: dict[int, Future[Any]] = {}
        self._server = server
        self._catalogs: dict[int, asyncio.Future[None]] = {}
        self._pages: dict[int, asyncio.Future[bytes]] = {}

    def send(self, frame: Frame) -> None:
        """Write one frame."""
        self.protocol.write([frame])

    def announce(self, number: int, frame: Frame) -> asyncio.Future[None]:
        """Send a catalog; return a future that ends when the front has taken it, or has left."""
        future: asyncio.Future[None] = self._server.loop.create_future()
        self._catalogs[number] = future
        self.send(frame)
        return future

    def request_page(self, number: int) -> asyncio.Future[bytes]:
        """Ask for the front's metrics; return a future of them, which is cancelled if the front leaves."""
        future: asyncio.Future[bytes] = self._server.loop.create_future()
        self._pages[number] = future
        self.send(encode(PageRequest(number)))
        return future

    def _on_begin(self) -> None:
        self._server.join(self)

    def _on_frame(self, message: Message, payload: memoryview) -> None:
        if isinstance(message, Rows):
            self._server.compute(self, message, payload)
        elif isinstance(message, Cancel):
            if (future := self.open.get(message.id)) is not None:
                future.cancel()
        elif isinstance(message, CatalogTaken):
            # A later catalog includes every earlier one.
            for number in [number for number in self._catalogs if number <= message.number]:
                _end(self._catalogs.pop(number), None)
        elif isinstance(message, Page):
            if (page := self._pages.pop(message.id, None)) is not None:
                _end(page, bytes(payload))
        else:
            raise ProtocolError(f"a front sent a message of the engine's: {type(message).__name__}")

    def _on_end(self) -> None:
        self._server.leave(self)
        for future in [*self.open.values()]:
            future.cancel()
        for taken in self._catalogs.values():
            _end(taken, None)
        for page in self._pages.values():
            page.cancel()


def _end(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
