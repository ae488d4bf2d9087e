"""A front's models and an engine's models in one process, with the channel between them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop

from fletcher.serve.engine.backend import Backend
from fletcher.serve.engine.engine import Engine
from fletcher.serve.engine.fairness.turn_pool import TurnPool
from fletcher.serve.fronts.channel.link import EngineLink
from fletcher.serve.fronts.channel.rows_server import RowsServer
from fletcher.serve.fronts.channel.wire import Catalog, CatalogEntry
from fletcher.serve.fronts.front.backend import FrontBackend
from fletcher.serve.fronts.front.remote_engine import RemoteEngine
from fletcher.serve.models.registry import Models
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.surroundings import fingerprint, load_encoder


@dataclass
class Front:
    """A front: models whose engines send rows, and the link."""

    models: Models
    link: EngineLink
    loop: asyncio.AbstractEventLoop
    catalogs: list[Catalog]

    def wait_for_catalog(self, count: int = 1) -> None:
        """Wait until so many catalogs were taken."""
        for _ in range(1000):
            if len(self.catalogs) >= count:
                return
            threading.Event().wait(0.01)
        raise AssertionError("the catalog did not come")


@contextmanager
def open_engine(
    specs: Sequence[ModelSpec],
    path: Path,
    *,
    load: Callable[[ModelSpec], Backend] = load_encoder,
    drain_seconds: float = 5.0,
) -> Iterator[RowsServer]:
    """Serve models on a Unix socket."""
    models = Models(load, lambda b, m: Engine(b, metrics=m), drain_seconds=drain_seconds, fingerprint=fingerprint)
    models.apply(specs)
    server = RowsServer(models, path, drain_seconds=drain_seconds)
    models.metrics.pages = server.pages
    server.start()
    try:
        yield server
    finally:
        models.stop(drain_seconds)
        server.stop()


@contextmanager
def open_front(path: Path, *, take_late: float = 0.0, max_queue_tokens: int = 1 << 20) -> Iterator[Front]:
    """Connect to an engine.

    Args:
        path: the engine's Unix socket.
        take_late: seconds before a catalog is taken.
        max_queue_tokens: limit of the tokens that wait for a thread.
    """
    entries: dict[tuple[str, str], CatalogEntry] = {}
    pool, changes = TurnPool(2, "test"), ThreadPoolExecutor(1)
    taken: list[Catalog] = []

    def take(catalog: Catalog) -> None:
        threading.Event().wait(take_late)
        entries.clear()
        entries.update({entry.spec.key: entry for entry in catalog.entries})
        models.apply([entry.spec for entry in catalog.entries])
        taken.append(catalog)
        link.take_catalog(catalog.number)

    def receive(catalog: Catalog) -> None:
        changes.submit(take, catalog)

    models = Models(
        lambda spec: FrontBackend(entries[spec.key]),
        lambda backend, metrics: RemoteEngine(backend, link, pool, metrics, max_queue_tokens=max_queue_tokens),  # type: ignore[arg-type]
        fingerprint=lambda spec: entries[spec.key].info.digest,
    )
    link = EngineLink(str(path), on_catalog=receive, page=models.metrics.exposition, finish=partial(pool.submit, ""))
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    loop.call_soon_threadsafe(link.start, loop)
    try:
        yield Front(models, link, loop, taken)
    finally:
        models.stop(1.0)
        loop.call_soon_threadsafe(link.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        pool.shutdown()
        changes.shutdown()
        loop.close()
