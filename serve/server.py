"""`Server`: models behind HTTP and Flight, from the start of the server to its shutdown."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fletcher.runtime.errors import FletcherError

from .access.addresses import Addresses, bind
from .engine.backend import Backend
from .engine.engine import Engine
from .http.server import HttpServer
from .listening import announce, listening_addresses, private_folder
from .models.loads import in_background
from .models.spec import ModelSpec
from .models.version import Loader
from .observe import logs
from .observe.memory import add_memory_metrics
from .observe.record import Consumer
from .server_options import ServerOptions
from .signals import STOP_MARGIN, hangups, last_resort, stop_signals, wait_until_stopped
from .surroundings import Surroundings, flight_server_class, load_encoder

if TYPE_CHECKING:
    from .flight.relayed import RelayedFlight
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
        self._options = options
        self._listening = listening = listening_addresses(options)
        http_at, flight_at = listening.http, listening.flight
        flight_server = None if flight_at is None else flight_server_class()
        self._surroundings = surroundings = Surroundings.open(options, tracing)
        self.keys = surroundings.gate.keys
        certificates = surroundings.certificates
        flight_listener: socket.socket | None = None
        try:
            flight_listener = None if flight_at is None else bind(flight_at, "--flight")
            if flight_listener is not None and certificates is None:
                flight_listener.close()  # gRPC binds it itself, and its own message names neither the option nor the reason
            listener = None if http_at is None else bind(http_at, "--http")
        except BaseException:
            if flight_listener is not None:
                flight_listener.close()
            surroundings.close()  # the audit log is one server's
            raise
        self.models = surroundings.make_models(load)
        add_memory_metrics(self.models.metrics, "server")
        self._http: HttpServer | None = None
        self._flight: FlightServer | RelayedFlight | None = None
        self._admin: HttpServer | None = None
        try:
            surroundings.fill(self.models, models)
            if flight_at is not None and flight_server is not None:
                make = partial(surroundings.make_flight, flight_server, self.models, consumers=consumers)
                if certificates is None or flight_listener is None:
                    self._flight = make(flight_at)
                else:
                    from .flight.relayed import RelayedFlight

                    self._flight = RelayedFlight(make, flight_listener, private_folder(), certificates)
            if listener is not None:
                app = surroundings.make_app(self.models, consumers)
                self._http = http = HttpServer(
                    surroundings.edge.around(app),
                    listener,
                    drain_seconds=options.drain_seconds,
                    limits=surroundings.connection_limits(),
                    certificates=certificates,
                )
                self.models.metrics.gauge("fletcher_http_connections", "Open HTTP connections", lambda: http.open)
                self._http.start()
            self._admin = surroundings.start_admin(self.models, listening.admin, consumers)
        except BaseException:
            for opened in (listener, flight_listener):
                if opened is not None:
                    opened.close()
            listening.remove_socket()
            self.stop()
            raise
        self.addresses = Addresses(
            http=None if self._http is None else self._http.url,
            flight=None if self._flight is None else self._flight.url,
            admin=None if self._admin is None else self._admin.url,
        )

    @property
    def engine(self) -> Engine:
        """The engine of the first model."""
        engine = self.models.named[0].answering[0].wake()
        assert isinstance(engine, Engine)  # `make_engine` above makes no others
        return engine

    def reload_files(self) -> None:
        """Read the keys, the certificate and the keys of signed tokens again.

        Raises:
            InputError: some cannot be used; these stay as they are.
        """
        self._surroundings.reload_files()

    def stop(self) -> bool:
        """Stop admitting requests, answer the admitted ones, and close HTTP and Flight.

        At first `/ready` answers 503 and requests are still answered, for `lame_duck_seconds`. Then new requests get 503. The
        port of HTTP stays open until the admitted requests are answered.

        Returns:
            True if every admitted request was answered in time.
        """
        self.models.announce_stop()
        if self._http is not None:  # an `__init__` that failed has none
            time.sleep(self._options.lame_duck_seconds)
        deadline = time.monotonic() + self._options.drain_seconds
        drained = self.models.stop(self._options.drain_seconds)
        servers = [server for server in (self._http, self._admin) if server is not None]
        for server in servers:
            server.stop(max(deadline - time.monotonic(), 1.0))
        if self._flight is not None:
            self._flight.stop(max(deadline - time.monotonic(), 1.0))
        for server in servers:
            server.join()
        self._listening.remove_socket()
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
) -> bool:
    """Serve until SIGTERM or SIGINT (Ctrl+C), then answer the admitted requests and return.

    The call must run on the main thread, which receives the signals. A second signal within two seconds is the same signal; a
    later one ends the process at once, with 128 plus the number of the signal.

    Args:
        models: models to load, or one loaded model, which the caller closes.
        options: as for `Server`.
        reread: returns the models to serve after SIGHUP. Default: SIGHUP reads only the keys again.
        on_listening: called when the server listens. Default: print the addresses on standard output.

    Returns:
        True if every admitted request was answered. If not, threads are still inside native code, and the interpreter would
        abort at its end: end the process with `os._exit`.

    Raises:
        InputError, FletcherError: as for `Server`.
    """
    options = ServerOptions() if options is None else options
    logs.install(options.log_level.upper())
    seconds = options.lame_duck_seconds + options.drain_seconds + STOP_MARGIN
    with (
        stop_signals() as stopped,
        hangups() as hung_up,
        last_resort(stopped, seconds, lambda: None),
    ):
        server = Server(models, options)
        if on_listening is None:
            announce(server.addresses)
        else:
            on_listening(server)
        try:
            wait_until_stopped(
                stopped, hung_up, on_hangup=lambda: in_background(partial(_reread, server, reread), "fletcher-reread")
            )
        finally:
            open_requests = server.models.open_requests
            logger.info("stopping", extra={"fields": {"open_requests": open_requests}})
            drained = server.stop()
            logger.info("stopped", extra={"fields": {"all_answered": drained}})
    return drained


def _reread(server: Server, reread: Callable[[], Sequence[ModelSpec]] | None) -> None:
    """Read the keys and the models again, after SIGHUP. A failure changes nothing and is logged."""
    try:
        server.reload_files()
        if reread is not None:
            server.models.apply(reread())
    except FletcherError as error:
        fields = {"error": type(error).__name__, "reason": str(error)}
        logger.error("the files were read again and rejected", extra={"fields": fields})
    else:
        models = [f"{spec.name}@{spec.version}" for spec in server.models.specs]
        logger.info("the files were read again", extra={"fields": {"models": models}})
