"""`run_engine`: the engine process from its start to its end: models, their queue, and the routes that fronts forward."""

from __future__ import annotations

import logging
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fletcher.runtime.errors import FletcherError

from ..http.server import HttpServer
from ..listening import listening_addresses
from ..models.loads import in_background
from ..models.served import served_models
from ..models.spec import ModelSpec
from ..observe.memory import add_memory_metrics
from ..surroundings import Surroundings, flight_server_class
from .channel.rows_server import RowsServer
from .config import ProcessConfig
from .control import Control
from .forward import trusting_peer
from .messages import Changed, Leave, Ready, Reload, Reloaded, Stop, Stopped
from .switching import SWITCH_SECONDS

if TYPE_CHECKING:
    from ..flight.server import FlightServer

__all__ = ["run_engine"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Connections that may wait on the Unix socket.
BACKLOG: Final = 1024


class _Engine:
    """The parts of the engine process."""

    def __init__(self, config: ProcessConfig, control: Control) -> None:
        options = config.options
        self._control = control
        self._surroundings = surroundings = Surroundings.open(
            options, table=config.open_table(), audit_socket=config.audit_socket
        )
        self.models = surroundings.make_models()
        add_memory_metrics(self.models.metrics, "engine")
        self._flight: FlightServer | None = None
        self.models.apply(config.specs)
        self._rows = RowsServer(self.models, Path(config.engine_rows), drain_seconds=options.drain_seconds)
        app = surroundings.make_app(self.models)
        listener = _listen(config.engine_http)
        self._http = HttpServer(trusting_peer(app), listener, drain_seconds=options.drain_seconds)
        self._http.start()
        if config.flight is not None:
            self._flight = surroundings.make_flight(flight_server_class(), self.models, config.engine_flight)
        self._listening = listening_addresses(options)
        self._admin = surroundings.start_admin(self.models, self._listening.admin)
        self.models.metrics.pages = self._rows.pages
        self._rows.start(on_change=self._changed)

    def _changed(self) -> None:
        self._control.send(Changed(tuple(self.models.specs)))

    @property
    def admin(self) -> str | None:
        """The URL of the admin API, if it has an address of its own."""
        return None if self._admin is None else self._admin.url

    def reload(self, specs: tuple[ModelSpec, ...] | None) -> Reloaded:
        """Read keys and certificates again, and serve these models; what fails leaves everything as it was."""
        try:
            self._surroundings.reload_files()
            if specs is not None:
                self.models.apply(specs)
        except FletcherError as error:
            return Reloaded(str(error))
        return Reloaded(models=tuple(f"{spec.name}@{spec.version}" for spec in self.models.specs))

    def stop(self, drain_seconds: float) -> bool:
        """Answer what was admitted, and close; return whether everything was answered in time."""
        self.models.stop_admitting()
        for server in (self._http, self._admin):
            if server is not None:
                server.stop(drain_seconds)
        drained = self.models.stop(drain_seconds)
        self._rows.stop()
        if self._flight is not None:
            self._flight.stop(1.0)
        for server in (self._http, self._admin):
            if server is not None:
                server.join()
        self._listening.remove_socket()
        self._surroundings.close()
        return drained


def run_engine(config: ProcessConfig, control: Control) -> None:
    """Compute for the fronts until the supervisor says stop.

    Args:
        config: configuration of the process.
        control: socket to the supervisor.

    Raises:
        FletcherError: a model cannot be loaded, or a socket cannot be opened.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    engine = _Engine(config, control)
    control.send(Ready(served_models(engine.models), engine.admin))
    for command in control.commands():
        if isinstance(command, Reload):
            # On another thread: a load that hangs must not keep the stop from being read.
            in_background(partial(_reload, engine, control, command.specs), "fletcher-reload")
        elif isinstance(command, Leave):
            engine.models.announce_stop()
        elif isinstance(command, Stop):
            control.send(Stopped(engine.stop(command.drain_seconds)))
            return


def _reload(engine: _Engine, control: Control, specs: tuple[ModelSpec, ...] | None) -> None:
    try:
        result = engine.reload(specs)
    except Exception as error:  # the supervisor waits for an answer
        logger.exception("the files were not read again")
        result = Reloaded(f"{type(error).__name__}: {error}")
    control.send(result)


def _listen(path: str) -> socket.socket:
    """Return a listening Unix socket at a path."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(BACKLOG)
    return listener
