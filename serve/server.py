"""A whole server: its models, its doors, and an orderly end."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import FletcherError, InputError
from fletcher.runtime.memory.budget import parse_size

from .access.addresses import Addresses, bind, parse
from .access.gate import Gate, check_binding
from .access.keys import Keys
from .engine.backend import Backend
from .engine.engine import MAX_QUEUE_TOKENS, MAX_WAIT_SECONDS, Engine
from .flight.server import FlightServer
from .http.app import HttpApp
from .http.call import Limits
from .http.server import HttpServer
from .longbow.door import LongbowDoor
from .longbow.wire.target import Target
from .models.registry import Models
from .models.spec import ModelSpec
from .models.version import Loader
from .observe import logs
from .observe.metrics import Metrics

if TYPE_CHECKING:
    from .observe.tracing import Tracing

__all__ = ["Addresses", "Server", "fingerprint", "load_encoder", "run_server"]

logger = logging.getLogger("fletcher.serve")

#: Seconds between two looks at whether a signal came.
SIGNAL_SECONDS = 0.5


def load_encoder(spec: ModelSpec) -> Backend:
    """Opens a model, its files and its canary checked."""
    return Encoder.load(
        spec.path,
        variant=spec.variant,
        provider=spec.provider,
        allow_fallback=spec.allow_fallback,
        min_cosine=spec.min_cosine,
        workers=spec.workers,
        token_budget=spec.token_budget,
        memory_limit=None if spec.memory_limit is None else parse_size(spec.memory_limit),
        cache_bytes=0 if spec.cache == "0" else parse_size(spec.cache),
    )


def fingerprint(spec: ModelSpec) -> str:
    """What the vectors of the folder depend on now."""
    return Artifact.open(Path(spec.path)).digest if spec.path else ""


class Server:
    """Models with their doors open; a context manager that drains and closes them.

    Attributes:
        addresses: where it listens.
        models: what answers.
    """

    def __init__(
        self,
        models: Backend | Sequence[ModelSpec],
        *,
        http: str | None = "127.0.0.1:8080",
        flight: str | None = "127.0.0.1:8815",
        model_name: str | None = None,
        drain_seconds: float = 30.0,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        limits: Limits | None = None,
        keys: Keys | None = None,
        allow_anonymous: bool = False,
        longbow: Target | None = None,
        tracing: Tracing | None = None,
        load: Loader = load_encoder,
    ) -> None:
        """Opens the doors; see `run_server`.

        Args:
            models: which to load, or one that is loaded and stays the caller's to close.
            http: `HOST:PORT` for HTTP, or None for no HTTP.
            flight: `HOST:PORT` for Flight, or None for no Flight.
            model_name: what to call the model; None is its card's name.
            drain_seconds: how long the orderly end may take.
            max_queue_tokens: tokens that may wait before requests are refused.
            max_wait_seconds: seconds that a request may be expected to wait.
            limits: what a request may have.
            keys: the API keys; None asks for none.
            allow_anonymous: whether other machines may reach a server without keys.
            longbow: where `/v1/ingest` and `DoPut` write to; None refuses them.
            tracing: where spans go; None makes none. The server closes it.
            load: opens a model.

        Raises:
            InputError: no door at all, an address that is none, a port that is taken, or a door to other machines without
                keys.
            FletcherError: a model cannot be loaded.
        """
        if http is None and flight is None:
            raise InputError("neither --http nor --flight was given an address: a server needs one of them")
        self._drain_seconds = drain_seconds
        http_at = None if http is None else parse(http, "--http")
        flight_at = None if flight is None else parse(flight, "--flight")
        for address, option in ((http_at, "--http"), (flight_at, "--flight")):
            if address is not None:
                check_binding(address, option, keys=keys is not None, allow_anonymous=allow_anonymous)
        if flight_at is not None:
            bind(flight_at, "--flight").close()  # gRPC's own message names neither the option nor the reason
        listener = None if http_at is None else bind(http_at, "--http")
        limits = Limits() if limits is None else limits
        gate = Gate(keys)

        def make_engine(encoder: Backend, metrics: Metrics) -> Engine:
            return Engine(
                encoder,
                max_queue_tokens=max_queue_tokens,
                max_wait_seconds=max_wait_seconds,
                max_request_tokens=limits.tokens,
                metrics=metrics,
            )

        self.models = Models(load, make_engine, drain_seconds=drain_seconds, fingerprint=fingerprint)
        self._longbow = None if longbow is None else LongbowDoor(longbow)
        self._tracing = tracing
        self._http: HttpServer | None = None
        self._flight: FlightServer | None = None
        try:
            if isinstance(models, Sequence):
                self.models.apply(models)
            else:
                name = model_name or models.card.name
                self.models.add_loaded(ModelSpec(path="", name=name, aliases=()), models)
            if flight_at is not None:
                self._flight = FlightServer(self.models, gate, flight_at, self._longbow, tracing)
            if listener is not None:
                app = HttpApp(self.models, gate=gate, limits=limits, longbow=self._longbow, tracing=tracing)
                self._http = HttpServer(app, listener, drain_seconds=drain_seconds)
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
        """What answers for the first model."""
        return self.models.serving[0].answering[0].wake()

    def stop(self) -> bool:
        """Admits nothing more, answers what was admitted, and closes the doors.

        Returns:
            Whether everything admitted was answered in time.
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
        if self._longbow is not None:
            self._longbow.close()
        if self._tracing is not None:
            self._tracing.close()
        return drained

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_server(
    models: Backend | Sequence[ModelSpec],
    *,
    http: str | None = "127.0.0.1:8080",
    flight: str | None = "127.0.0.1:8815",
    model_name: str | None = None,
    drain_seconds: float = 30.0,
    max_queue_tokens: int = MAX_QUEUE_TOKENS,
    max_wait_seconds: float = MAX_WAIT_SECONDS,
    limits: Limits | None = None,
    keys: Keys | None = None,
    allow_anonymous: bool = False,
    longbow: Target | None = None,
    tracing: Tracing | None = None,
    log_level: str = "info",
    reread: Callable[[], Sequence[ModelSpec]] | None = None,
    on_listening: Callable[[Server], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT (Ctrl+C), then answers what was admitted and returns.

    It must run on the main thread: signals arrive there.

    Args:
        models: which to load, or one that is loaded and stays the caller's to close.
        http: `HOST:PORT` for HTTP (port 0 takes a free one), or None for no HTTP.
        flight: `HOST:PORT` for Arrow Flight, or None for no Flight.
        model_name: what to call the model; None is its card's name.
        drain_seconds: how long requests under way may take after the signal; what is left then is refused.
        max_queue_tokens, max_wait_seconds, limits, keys, allow_anonymous, longbow, tracing: see `Server`.
        log_level: the least severe that is written, of `logs.LEVELS`; requests that succeed are `debug`.
        reread: on SIGHUP, gives the models that are wanted from then on; None reads the keys again alone.
        on_listening: called once it listens; None prints the addresses on standard output.

    Raises:
        InputError: no door at all, an address that is none, or a port that is taken.
    """
    logs.install(log_level.upper())
    with _stop_signals() as stopped, _hangups() as hung_up:
        server = Server(
            models,
            http=http,
            flight=flight,
            model_name=model_name,
            drain_seconds=drain_seconds,
            max_queue_tokens=max_queue_tokens,
            max_wait_seconds=max_wait_seconds,
            limits=limits,
            keys=keys,
            allow_anonymous=allow_anonymous,
            longbow=longbow,
            tracing=tracing,
        )
        (_announce if on_listening is None else on_listening)(server)
        try:
            # A signal that another thread receives, or that comes just before the wait, does not interrupt it.
            while not stopped.wait(SIGNAL_SECONDS):
                if hung_up.is_set():
                    hung_up.clear()
                    _reread(server, keys, reread)
        finally:
            open_requests = server.models.open_requests
            logger.info("stopping", extra={"fields": {"open_requests": open_requests}})
            drained = server.stop()
            logger.info("stopped", extra={"fields": {"all_answered": drained}})


def _reread(server: Server, keys: Keys | None, reread: Callable[[], Sequence[ModelSpec]] | None) -> None:
    """What SIGHUP does; what fails leaves everything as it was, and stands in the log."""
    try:
        if keys is not None:
            keys.reload()
        if reread is not None:
            server.models.apply(reread())
    except FletcherError as error:
        fields = {"error": type(error).__name__, "reason": str(error)}
        logger.error("the files were not taken over", extra={"fields": fields})
    else:
        models = [f"{spec.name}@{spec.version}" for spec in server.models.specs]
        logger.info("the files were read again", extra={"fields": {"models": models}})


@contextmanager
def _hangups() -> Iterator[threading.Event]:
    """An event that SIGHUP sets; its handler is put back at the end."""
    event = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGHUP, before)


def _announce(server: Server) -> None:
    for door, url in (("HTTP", server.addresses.http), ("Flight", server.addresses.flight)):
        if url is not None:
            sys.stdout.write(f"{door} on {url}\n")
    sys.stdout.flush()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second signal ends the process the usual way."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(number: int, frame: FrameType | None) -> None:
        for known, handler in before.items():
            signal.signal(known, handler)
        stopped.set()

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
