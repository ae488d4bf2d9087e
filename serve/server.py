"""A whole server: one engine, its doors, and an orderly end."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from fletcher.runtime.errors import InputError

from . import logs
from .addresses import Addresses, bind, parse
from .backend import Backend
from .engine import MAX_QUEUE_TOKENS, MAX_WAIT_SECONDS, Engine
from .flight_server import FlightServer
from .http_app import MAX_BODY_BYTES, HttpApp
from .http_server import HttpServer
from .longbow.connection import Target
from .longbow.door import LongbowDoor
from .metrics import Metrics
from .readiness import Readiness
from .served import ServedModel

__all__ = ["Addresses", "Server", "run_server"]

logger = logging.getLogger("fletcher.serve")

#: Seconds between two looks at whether a signal came.
SIGNAL_SECONDS = 0.5


class Server:
    """An engine with its doors open; a context manager that drains and closes them.

    Attributes:
        addresses: where it listens.
        engine: what answers.
    """

    def __init__(
        self,
        encoder: Backend,
        *,
        http: str | None = "127.0.0.1:8080",
        flight: str | None = "127.0.0.1:8815",
        model_name: str | None = None,
        drain_seconds: float = 30.0,
        max_queue_tokens: int = MAX_QUEUE_TOKENS,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        max_body_bytes: int = MAX_BODY_BYTES,
        longbow: Target | None = None,
    ) -> None:
        """Opens the doors; see `run_server`.

        Args:
            encoder: the loaded model.
            http: `HOST:PORT` for HTTP, or None for no HTTP.
            flight: `HOST:PORT` for Flight, or None for no Flight.
            model_name: what to call the model; None is its card's name.
            drain_seconds: how long the orderly end may take.
            max_queue_tokens: tokens that may wait before requests are refused.
            max_wait_seconds: seconds that a request may be expected to wait.
            max_body_bytes: larger HTTP bodies are refused.
            longbow: where `/v1/ingest` and DoPut write to; None refuses them.

        Raises:
            InputError: no door at all, an address that is none, or a port that is taken.
        """
        if http is None and flight is None:
            raise InputError("neither --http nor --flight was given an address: a server needs one of them")
        self._drain_seconds = drain_seconds
        http_at = None if http is None else parse(http, "--http")
        flight_at = None if flight is None else parse(flight, "--flight")
        if flight_at is not None:
            bind(flight_at, "--flight").close()  # gRPC's own message names neither the option nor the reason
        listener = None if http_at is None else bind(http_at, "--http")
        model = ServedModel.of(encoder, model_name)
        self.engine = Engine(
            encoder, max_queue_tokens=max_queue_tokens, max_wait_seconds=max_wait_seconds, metrics=Metrics()
        )
        readiness = Readiness(self.engine)
        self._longbow = None if longbow is None else LongbowDoor(longbow)
        self._http: HttpServer | None = None
        self._flight: FlightServer | None = None
        try:
            if flight_at is not None:
                self._flight = FlightServer(self.engine, model, readiness, flight_at)
                self._flight.longbow = self._longbow
            if listener is not None:
                app = HttpApp(self.engine, model, readiness, max_body_bytes=max_body_bytes)
                app.longbow = self._longbow
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

    def stop(self) -> bool:
        """Admits nothing more, answers what was admitted, and closes the doors.

        Returns:
            Whether everything admitted was answered in time.
        """
        deadline = time.monotonic() + self._drain_seconds
        self.engine.stop_admitting()
        if self._http is not None:
            self._http.stop()
        drained = self.engine.stop(self._drain_seconds)
        if self._flight is not None:
            self._flight.stop(max(deadline - time.monotonic(), 1.0))
        if self._http is not None:
            self._http.join()
        if self._longbow is not None:
            self._longbow.close()
        return drained

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_server(
    encoder: Backend,
    *,
    http: str | None = "127.0.0.1:8080",
    flight: str | None = "127.0.0.1:8815",
    model_name: str | None = None,
    drain_seconds: float = 30.0,
    longbow: Target | None = None,
    on_listening: Callable[[Addresses], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT (Ctrl+C), then answers what was admitted and returns.

    It must run on the main thread: signals arrive there.

    Args:
        encoder: the loaded model; it stays the caller's to close.
        http: `HOST:PORT` for HTTP (port 0 takes a free one), or None for no HTTP.
        flight: `HOST:PORT` for Arrow Flight, or None for no Flight.
        model_name: what to call the model; None is its card's name.
        drain_seconds: how long requests under way may take after the signal; what is left then is refused.
        longbow: where `/v1/ingest` and DoPut write to; None refuses them.
        on_listening: called once with the real addresses; None prints them on standard output.

    Raises:
        InputError: no door at all, an address that is none, or a port that is taken.
    """
    logs.install()
    with _stop_signals() as stopped:
        server = Server(
            encoder, http=http, flight=flight, model_name=model_name, drain_seconds=drain_seconds, longbow=longbow
        )
        (_announce if on_listening is None else on_listening)(server.addresses)
        try:
            # A signal that another thread receives, or that comes just before the wait, does not interrupt it.
            while not stopped.wait(SIGNAL_SECONDS):
                pass
        finally:
            open_requests = server.engine.open_requests
            logger.info("stopping", extra={"fields": {"open_requests": open_requests}})
            drained = server.stop()
            logger.info("stopped", extra={"fields": {"all_answered": drained}})


def _announce(addresses: Addresses) -> None:
    for door, url in (("HTTP", addresses.http), ("Flight", addresses.flight)):
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
