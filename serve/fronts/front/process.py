"""`run_front`: a front process from its start to its end."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fletcher.runtime.errors import FletcherError

from ...engine.backend import Backend
from ...engine.fairness.turn_pool import TurnPool
from ...models.registry import Models
from ...models.spec import ModelSpec
from ...observe.memory import add_memory_metrics
from ...observe.metrics import Metrics
from ...surroundings import Surroundings
from ..channel.link import EngineLink
from ..channel.wire import Catalog, CatalogEntry
from ..config import ProcessConfig
from ..connections import PassedConnections
from ..control import Control
from ..forward import Forward
from ..messages import Connections, Failed, Ready, Reload, Reloaded, Stop, Stopped
from ..switching import SWITCH_SECONDS
from .app import FrontApp
from .backend import FrontBackend
from .remote_engine import RemoteEngine

if TYPE_CHECKING:
    from .flight import FrontFlightServer

__all__ = ["run_front"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Threads that tokenize long requests and make large answers: the tokenizer works outside Python's lock.
THREADS: Final = 2


class _Front:
    """The parts of a front process."""

    def __init__(self, config: ProcessConfig, control: Control) -> None:
        options = config.options
        self._config = config
        self._control = control
        self._surroundings = surroundings = Surroundings.open(
            options, table=config.open_table(), audit_socket=config.audit_socket
        )
        self._entries: dict[tuple[str, str], CatalogEntry] = {}
        self._pool = TurnPool(THREADS, "fletcher-tokenize")
        self._catalogs = ThreadPoolExecutor(1, thread_name_prefix="fletcher-catalog")
        self._ready = threading.Event()
        self.models = Models(
            self._open_backend,
            self._make_engine,
            drain_seconds=options.drain_seconds,
            fingerprint=lambda spec: self._entries[spec.key].info.digest,
            refuse_long=options.on_truncate == "refuse",
            default=options.default_model,
            load_seconds=options.load_seconds,
        )
        self.models.keeps_texts = options.audit_texts
        app = surroundings.make_app(self.models)
        forward = Forward(config.engine_http)
        self.connections = PassedConnections(
            surroundings.edge.around(FrontApp(app, forward)),
            drain_seconds=options.drain_seconds,
            on_counts=lambda begun, closed: control.send(Connections(begun, closed)),
            on_end=forward.close,
            limits=surroundings.connection_limits(),
            certificates=surroundings.certificates,
        )
        metrics = self.models.metrics
        add_memory_metrics(metrics, f"front-{config.front}")
        surroundings.watch(metrics)
        metrics.gauge("fletcher_http_connections", "Open HTTP connections", lambda: self.connections.open)
        self._link = EngineLink(
            config.engine_rows,
            on_catalog=self._receive,
            page=metrics.exposition,
            finish=partial(self._pool.submit, ""),  # answers take turns with the texts of clients
        )
        self._flight: FrontFlightServer | None = None

    def _open_backend(self, spec: ModelSpec) -> Backend:
        return FrontBackend(self._entries[spec.key])

    def _make_engine(self, backend: Backend, metrics: Metrics) -> RemoteEngine:
        assert isinstance(backend, FrontBackend)  # `_open_backend` makes no others
        limits = self._surroundings.limits
        return RemoteEngine(
            backend,
            self._link,
            self._pool,
            metrics,
            max_queue_tokens=self._surroundings.options.queue_tokens,
            max_request_tokens=limits.tokens,
            budget=limits.budget,
        )

    def _receive(self, catalog: Catalog) -> None:
        """Take a catalog on another thread than the event loop's: it opens tokenizers."""
        self._catalogs.submit(self._take, catalog)

    def _take(self, catalog: Catalog) -> None:
        """Answer by a catalog: open new tokenizers, drain old versions, and acknowledge it."""
        try:
            self._entries = {entry.spec.key: entry for entry in catalog.entries}
            self.models.apply([entry.spec for entry in catalog.entries])
            if not self._ready.is_set():
                self._begin()
        except FletcherError as error:
            logger.error("the models cannot be served", extra={"fields": {"reason": str(error)}})
            if not self._ready.is_set():
                self._control.send(Failed.of(error))
            return
        self._link.take_catalog(catalog.number)

    def _begin(self) -> None:
        """Listen for Flight, and report that the front is ready."""
        if self._config.flight is not None:
            from .flight import FrontFlightServer

            surroundings, socket_path = self._surroundings, Path(self._config.front_flight)
            socket_path.unlink(missing_ok=True)  # of a front that was killed
            self._flight = surroundings.make_flight(FrontFlightServer, self.models, str(socket_path))
            scheme = "grpc" if surroundings.certificates is None else "grpc+tls"
            self._flight.url = f"{scheme}://{self._config.flight}"  # where clients reach it, through the supervisor
            self._flight.engine_url = f"grpc+unix://{self._config.engine_flight}"
        self._ready.set()
        self._control.send(Ready())

    def start(self) -> None:
        """Connect to the engine process. The front is ready when the first catalog has come."""
        self.connections.start()
        loop = self.connections.loop
        self._control.answer_pings_on(loop)
        loop.call_soon_threadsafe(self._link.start, loop)

    def reload_files(self) -> Reloaded:
        """Read keys and certificates again."""
        try:
            self._surroundings.reload_files()
        except FletcherError as error:
            return Reloaded(str(error))
        return Reloaded()

    def stop(self, drain_seconds: float) -> bool:
        """Answer what is open, and close; return whether everything was answered in time."""
        deadline = time.monotonic() + drain_seconds
        drained = self.models.stop(drain_seconds)
        self.connections.stop(max(deadline - time.monotonic(), 1.0))
        if self._flight is not None:
            self._flight.stop(max(deadline - time.monotonic(), 1.0))
        # The loop ends by itself when no connection is left, and the link with it.
        with contextlib.suppress(RuntimeError):
            self.connections.loop.call_soon_threadsafe(self._link.close)
        self.connections.join()
        self._surroundings.close()
        return drained


def run_front(config: ProcessConfig, control: Control) -> None:
    """Serve HTTP and Flight until the supervisor says stop.

    Args:
        config: configuration of the process.
        control: socket to the supervisor.

    Raises:
        FletcherError: the front cannot start.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    front = _Front(config, control)
    front.start()

    def stop(drain_seconds: float) -> None:
        drained = False
        try:
            drained = front.stop(drain_seconds)
        finally:
            control.send(Stopped(drained))
            control.end_commands()

    for command in control.commands():
        if isinstance(command, socket.socket):
            front.connections.add(command)
        elif isinstance(command, Reload):
            control.send(front.reload_files())
        elif isinstance(command, Stop):
            # On another thread: connections still come, and their requests are answered with 503.
            threading.Thread(target=stop, args=(command.drain_seconds,), name="fletcher-stop", daemon=True).start()
