"""`Server`: models behind HTTP and Flight, from the start of the server to its shutdown."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fletcher.runtime.errors import FletcherError

from .access.addresses import Addresses, bind
from .engine.backend import Backend
from .engine.engine import Engine
from .http.server import HttpServer
from .listening import announce, listening_addresses
from .models.registry import Models
from .models.spec import ModelSpec
from .models.version import Loader
from .observe import logs
from .observe.record import Consumer
from .server_options import ServerOptions
from .signals import hangups, stop_signals, wait_until_stopped
from .surroundings import (
    Surroundings,
    fingerprint,
    flight_server_class,
    load_encoder,
    make_loader,
    require_proof,
)

if TYPE_CHECKING:
    from .flight.server import FlightServer
    from .observe.tracing import Tracing

__all__ = ["Addresses", "Server", "run_server"]

logger = logging.getLogger("fletcher.serve")


class Server:
    """Models behind HTTP and Flight; a context manager that answers admitted requests and closes the models.

    Attributes:
        addresses: addresses on which it listens.
        models: the served models.
        keys: the API keys, or None without keys.
    """

    def __init__(
        self,
        models: Backend | Sequence[ModelSpec],
        options: ServerOptions | None = None,
        *,
        load: Loader = load_encoder,
        tracing: Tracing | None = None,
        consumers: Sequence[Consumer] = (),
    ) -> None:
        """Load the models and listen.

        Args:
            models: models to load, or one loaded model, which the caller closes.
            options: addresses, limits, keys, Longbow, traces.
            load: opens a model.
            tracing: destination of spans, instead of `options.otlp`; the server closes it.
            consumers: functions that receive the record of every request, in addition to metrics, log and traces.

        Raises:
            InputError: neither HTTP nor Flight is enabled, an address is invalid, a port is in use, other machines can
                reach an address and there are no keys, or `require_verified` refuses a model.
            FletcherError: a model cannot be loaded.
        """
        options = ServerOptions() if options is None else options
        load = make_loader(options, load)
        if options.require_verified and not isinstance(models, Sequence):
            require_proof(models.info.canary, models.info.card.name)
        self._drain_seconds = options.drain_seconds
        listening = listening_addresses(options)
        http_at, flight_at = listening.http, listening.flight
        flight_server = None if flight_at is None else flight_server_class()
        self._surroundings = surroundings = Surroundings.open(options, tracing)
        self.keys = surroundings.gate.keys
        if flight_at is not None:
            bind(flight_at, "--flight").close()  # gRPC's own message names neither the option nor the reason
        listener = None if http_at is None else bind(http_at, "--http")
        self.models = Models(
            load, surroundings.make_engine, drain_seconds=options.drain_seconds, fingerprint=fingerprint
        )
        self._http: HttpServer | None = None
        self._flight: FlightServer | None = None
        try:
            if isinstance(models, Sequence):
                self.models.apply(models)
            else:
                name = options.name or models.info.card.name
                self.models.add_loaded(ModelSpec(path="", name=name, aliases=()), models)
            if flight_at is not None and flight_server is not None:
                self._flight = flight_server(
                    self.models, surroundings.gate, flight_at, surroundings.longbow, surroundings.tracing, consumers
                )
            if listener is not None:
                app = surroundings.make_app(self.models, consumers)
                self._http = http = HttpServer(app, listener, drain_seconds=options.drain_seconds)
                self.models.metrics.gauge("fletcher_http_connections", "Open HTTP connections", lambda: http.open)
                self._http.start()
        except BaseException:
            if listener is not None:
                listener.close()
            self.stop()
            raise
        self.addresses = Addresses(
            http=None if self._http is None else self._http.url,
            flight=None if self._flight is None else self._flight.url,
        )

    @property
    def engine(self) -> Engine:
        """The engine of the first model."""
        engine = self.models.named[0].answering[0].wake()
        assert isinstance(engine, Engine)  # `make_engine` above makes no others
        return engine

    def reload_keys(self) -> None:
        """Read the keys' file again, if there is one.

        Raises:
            InputError: the file cannot be used; the keys stay as they are.
        """
        self._surroundings.reload_keys()

    def stop(self) -> bool:
        """Stop admitting requests, answer the admitted ones, and close HTTP and Flight.

        Returns:
            True if every admitted request was answered in time.
        """
        deadline = time.monotonic() + self._drain_seconds
        self.models.stop_admitting()
        if self._http is not None:
            self._http.stop()
        drained = self.models.stop(self._drain_seconds)
        if self._flight is not None:
            self._flight.stop(max(deadline - time.monotonic(), 1.0))
        if self._http is not None:
            self._http.join()
        self._surroundings.close()
        return drained

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_server(
    models: Backend | Sequence[ModelSpec],
    options: ServerOptions | None = None,
    *,
    reread: Callable[[], Sequence[ModelSpec]] | None = None,
    on_listening: Callable[[Server], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (Ctrl+C), then answer the admitted requests and return.

    The call must run on the main thread, which receives the signals.

    Args:
        models: models to load, or one loaded model, which the caller closes.
        options: as for `Server`.
        reread: returns the models to serve after SIGHUP. Default: SIGHUP reads only the keys again.
        on_listening: called when the server listens. Default: print the addresses on standard output.

    Raises:
        InputError, FletcherError: as for `Server`.
    """
    options = ServerOptions() if options is None else options
    logs.install(options.log_level.upper())
    with stop_signals() as stopped, hangups() as hung_up:
        server = Server(models, options)
        if on_listening is None:
            announce(server.addresses)
        else:
            on_listening(server)
        try:
            wait_until_stopped(stopped, hung_up, on_hangup=lambda: _reread(server, reread))
        finally:
            open_requests = server.models.open_requests
            logger.info("stopping", extra={"fields": {"open_requests": open_requests}})
            drained = server.stop()
            logger.info("stopped", extra={"fields": {"all_answered": drained}})


def _reread(server: Server, reread: Callable[[], Sequence[ModelSpec]] | None) -> None:
    """Read the keys and the models again, after SIGHUP. A failure changes nothing and is logged."""
    try:
        server.reload_keys()
        if reread is not None:
            server.models.apply(reread())
    except FletcherError as error:
        fields = {"error": type(error).__name__, "reason": str(error)}
        logger.error("the files were read again and rejected", extra={"fields": fields})
    else:
        models = [f"{spec.name}@{spec.version}" for spec in server.models.specs]
        logger.info("the files were read again", extra={"fields": {"models": models}})
