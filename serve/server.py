"""`Server`: models behind HTTP and Flight, from the start of the server to its shutdown."""

from __future__ import annotations

import importlib.util
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from fletcher.runtime.errors import FletcherError, InputError

from .access.addresses import Addresses, bind, parse
from .access.gate import check_binding
from .engine.backend import Backend
from .engine.engine import Engine
from .http.app import HttpApp
from .http.server import HttpServer
from .models.registry import Models
from .models.spec import ModelSpec
from .models.version import Loader
from .observe import logs
from .observe.record import Consumer
from .server_options import FLIGHT, OFF, ServerOptions
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

#: Seconds between two checks for a signal.
SIGNAL_SECONDS = 0.5


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
        http_at = None if options.http == OFF else parse(options.http, "--http")
        flight = _flight_address(options)
        flight_at = None if flight == OFF else parse(flight, "--flight")
        if http_at is None and flight_at is None:
            raise InputError(
                "neither HTTP nor Flight is enabled, and a server needs one of them: give --http or --flight an address"
            )
        for address, option in ((http_at, "--http"), (flight_at, "--flight")):
            if address is not None:
                check_binding(address, option, keys=options.keys is not None, allow_anonymous=options.allow_anonymous)
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
                app = HttpApp(
                    self.models,
                    gate=surroundings.gate,
                    limits=surroundings.limits,
                    longbow=surroundings.longbow,
                    tracing=surroundings.tracing,
                    consumers=consumers,
                )
                self._http = HttpServer(app, listener, drain_seconds=options.drain_seconds)
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
    with _stop_signals() as stopped, _hangups() as hung_up:
        server = Server(models, options)
        (_announce if on_listening is None else on_listening)(server)
        try:
            # A signal that another thread receives, or that comes just before the wait, does not interrupt it.
            while not stopped.wait(SIGNAL_SECONDS):
                if hung_up.is_set():
                    hung_up.clear()
                    _reread(server, reread)
        finally:
            open_requests = server.models.open_requests
            logger.info("stopping", extra={"fields": {"open_requests": open_requests}})
            drained = server.stop()
            logger.info("stopped", extra={"fields": {"all_answered": drained}})


def _flight_address(options: ServerOptions) -> str:
    """Return the requested address of Flight, or the default one; `off` if there is no request and pyarrow is missing."""
    if options.flight is not None:
        return options.flight
    if _has_pyarrow():
        return FLIGHT
    logger.info(
        "Arrow Flight is off",
        extra={"fields": {"reason": "pyarrow is not installed: pip install 'longbow-fletcher[flight]'"}},
    )
    return OFF


def _has_pyarrow() -> bool:
    try:
        return importlib.util.find_spec("pyarrow") is not None
    except ModuleNotFoundError:  # an import hook hides the package
        return False


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


@contextmanager
def _hangups() -> Iterator[threading.Event]:
    """Return an event that SIGHUP sets; restore the previous handler at the end."""
    event = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGHUP, before)


def _announce(server: Server) -> None:
    for protocol, url in (("HTTP", server.addresses.http), ("Flight", server.addresses.flight)):
        if url is not None:
            sys.stdout.write(f"{protocol} on {url}\n")
    sys.stdout.flush()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Return an event that SIGTERM and SIGINT set. A second signal ends the process with the previous handler."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
        stopped.set()

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
