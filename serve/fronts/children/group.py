"""`Group`: the engine process and the fronts together: their starts, messages, ends and restarts, and the stop of all."""

from __future__ import annotations

import logging
import math
import selectors
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from fletcher.runtime.errors import FletcherError, ServiceError

from ...models.served import ServedModel
from ...models.spec import ModelSpec
from ...server_options import ServerOptions
from ..config import ProcessConfig
from ..flight_relay import FlightRelay
from ..messages import Changed, Failed, Leave, Ready, Reload, Reloaded, Report
from .endpoints import Endpoints
from .handing import Handing
from .process import ChildProcess, Timing
from .slot import Slot

__all__ = ["Group"]

logger = logging.getLogger("fletcher.serve.fronts")


class Group:
    """All children of a supervisor. One thread uses it; the futures are for others.

    Attributes:
        started: done when all children are ready, or with the error of a start.
        ended: done when all children have ended, with whether everything that was open was answered.
        models: models as the engine announced them at its start.
        admin: URL of the admin API if it has an address of its own.
        engine: place of the engine.
        fronts: places of the fronts.
    """

    def __init__(
        self,
        specs: tuple[ModelSpec, ...],
        options: ServerOptions,
        command: Sequence[str],
        timing: Timing,
        endpoints: Endpoints,
        selector: selectors.BaseSelector,
    ) -> None:
        """Prepare; `look` starts the children.

        Args:
            specs: models to serve.
            options: options of the server.
            command: command of children, to which role and descriptor are appended.
            timing: seconds to wait.
            endpoints: ports and folder; `close` closes them.
            selector: waits for the control sockets.
        """
        self._specs = self._pending = specs
        self._options = options
        self._command = command
        self._timing = timing
        self._endpoints = endpoints
        self._selector = selector
        self.handing = Handing(endpoints.listener)
        self._relay = (
            None
            if endpoints.flight_listener is None
            else FlightRelay(endpoints.flight_listener, endpoints.folder, self._next_flight_socket)
        )
        self._flight_turn = 0
        self.started: Future[None] = Future()
        self.ended: Future[bool] = Future()
        self.models: tuple[ServedModel, ...] = ()
        self.admin: str | None = None
        self.engine = Slot(0, timing)
        self.fronts = [Slot(number, timing) for number in range(1, max(options.front_count, 1) + 1)]
        self._engine_ready_since: float | None = None
        self._stop_at = math.inf  # end of the seconds in which `/ready` says that the server stops
        self._stop_since: float | None = None  # from then on no child is started again
        self._engine_stops = False
        self._kill_at = math.inf
        self._drained = True

    @property
    def children(self) -> Iterator[ChildProcess]:
        """The processes that have not ended."""
        return (slot.child for slot in (self.engine, *self.fronts) if slot.child is not None)

    @property
    def ready_fronts(self) -> list[ChildProcess]:
        """The fronts that work."""
        return [slot.child for slot in self.fronts if slot.child is not None and slot.ready]

    @property
    def accepts(self) -> bool:
        """True while connections may be accepted."""
        return self.started.done() and not self._engine_stops

    @property
    def changing(self) -> bool:
        """True while the end of a process is awaited."""
        return self._stop_since is not None or any(child.channel.ended for child in self.children)

    def look(self, now: float) -> None:
        """Do what the time asks for: note ends, start again, ping, kill what is late.

        Args:
            now: time of the clock.
        """
        self._note_ends(now)
        if self._stop_since is None and now >= self._stop_at:
            self._begin_stop(now)
        if self._stop_since is None:
            self._start_due(now)
            self._check_fronts(now)
        else:
            self._continue_stop(now, self._stop_since)

    def forgive(self, now: float) -> None:
        """Let the times for the answers to pings begin now: the supervisor itself did not run."""
        for child in self.children:
            child.forgive(now)

    def read(self, child: ChildProcess) -> None:
        """Read what a child has sent."""
        now = time.monotonic()
        for message in child.receive(now):
            self._take(child, message, now)
        if child.channel.ended:
            self._selector.unregister(child.channel)
            child.kill()  # it has closed its end, so that it is ending or out of control

    def reload(self, specs: tuple[ModelSpec, ...] | None) -> None:
        """Let the children read the keys again, and the engine serve these models; None keeps the present ones."""
        self._pending = self._specs if specs is None else specs
        if self.engine.child is None:
            self._specs = self._pending  # the next engine begins with them
        for child in self.children:
            child.channel.send(Reload(specs if child is self.engine.child else None))

    def stop(self) -> None:
        """Let `/ready` say that the server stops; `look` does the rest. Connections are accepted until the fronts end."""
        if self._stop_at == math.inf:
            self._stop_at = time.monotonic() + self._options.lame_duck_seconds
            self._announce_stop()

    def _announce_stop(self) -> None:
        """Tell the engine that the server stops, if it does."""
        if self._stop_at < math.inf and self.engine.child is not None:
            self.engine.child.channel.send(Leave())

    def _begin_stop(self, now: float) -> None:
        """Tell the fronts to answer what is open, and to end."""
        self._stop_since = now
        self._kill_at = now + self._options.drain_seconds + self._timing.margin
        if self._relay is not None:
            self._relay.close_listener()
        for slot in self.fronts:
            if slot.child is not None and slot.ready:
                slot.child.stop(self._options.drain_seconds)
            elif slot.child is not None:
                slot.child.kill()

    def kill(self) -> None:
        """End all children at once."""
        self._stop_since, self._kill_at, self._engine_stops = time.monotonic(), math.inf, True
        self._drained = False
        self.handing.close()
        for child in self.children:
            child.kill()

    def close(self) -> None:
        """Wait for the ends of killed children, and close ports and folder."""
        for child in self.children:
            child.wait()
            child.close()
        self.handing.close()
        if self._relay is not None:
            self._relay.stop()
        self._endpoints.close()

    # Starts and messages ------------------------------------------------------------------------------------------------

    def _start_due(self, now: float) -> None:
        """Start the children that are not there and whose time has come."""
        for slot in (self.engine, *self.fronts):
            if slot.child is not None or now < slot.start_at:
                continue
            if slot is self.engine:
                self._endpoints.clear_folder()
            child = slot.start(self._command, self._config(slot.number), now)
            if child is not None:
                self._selector.register(child.channel, selectors.EVENT_READ, child)
            elif not self.started.done():
                self._fail(ServiceError("the system did not start a process; the log has the reason"))
                return

    def _next_flight_socket(self) -> str | None:
        """Return the Unix socket of the front that gets the next Flight connection. The relay's thread calls it."""
        ready = [slot.number for slot in self.fronts if slot.ready]
        if not ready:
            return None
        self._flight_turn += 1
        return self._config(ready[self._flight_turn % len(ready)]).front_flight

    def _config(self, front: int) -> ProcessConfig:
        flight = self._endpoints.flight
        return ProcessConfig(
            specs=self._specs,
            options=self._options,
            folder=str(self._endpoints.folder),
            flight=None if flight is None else str(flight),
            front=front,
        )

    def _take(self, child: ChildProcess, message: Report, now: float) -> None:
        from_engine = child is self.engine.child
        match message:
            case Ready():
                if from_engine:
                    self._engine_ready_since = now
                    self.models = self.models or message.models
                    self.admin = message.admin
                    self._announce_stop()
                if self.started.done():
                    logger.info("a process is ready", extra={"fields": {"process": child.name}})
                elif self.engine.ready and all(slot.ready for slot in self.fronts):
                    if self._relay is not None:
                        self._relay.start()
                    self.started.set_result(None)
            case Failed():
                child.kill()  # it may still have threads that keep it
            case Changed():
                self._specs = message.specs
            case Reloaded() if message.error is not None:
                fields = {"process": child.name, "reason": message.error}
                logger.error("the files were read again and rejected", extra={"fields": fields})
            case Reloaded() if from_engine:
                self._specs = self._pending
                logger.info("the files were read again", extra={"fields": {"models": list(message.models)}})

    def _check_fronts(self, now: float) -> None:
        """Kill fronts that hang, or that do not become ready."""
        for slot in self.fronts:
            child = slot.child
            if child is None or child.channel.ended or child.problem is not None:
                continue
            if child.ready:
                if not child.ping(now, self._timing):
                    child.problem = f"did not answer within {self._timing.hang:g} s"
                    child.kill()
            elif (
                self._engine_ready_since is not None
                and now - max(child.started, self._engine_ready_since) > self._timing.front_start
            ):
                child.problem = f"was not ready within {self._timing.front_start:g} s"
                child.kill()

    # Ends ---------------------------------------------------------------------------------------------------------------

    def _note_ends(self, now: float) -> None:
        """Note the ends of processes."""
        for slot in (self.engine, *self.fronts):
            child = slot.child
            if child is None or (code := child.poll()) is None:
                continue
            if not child.channel.ended:
                self.read(child)  # its last messages
            if not child.channel.ended:  # another process still has the socket
                self._selector.unregister(child.channel)
                child.channel.ended = True
            if self.accepts:
                self.handing.take_back(child)
            if slot is self.engine:
                self._engine_ready_since = None
            error = slot.end(child, code, now, again=self.started.done() and self._stop_since is None)
            if self._stop_since is not None:
                self._drained &= child.stopped is not None and child.stopped.drained
            elif not self.started.done():
                self._fail(error or ServiceError(f"the process {child.name!r} ended while the server started"))

    def _continue_stop(self, now: float, since: float) -> None:
        """Kill what does not stop in time; stop the engine when the fronts have ended."""
        engine, fronts = self.engine.child, [slot.child for slot in self.fronts if slot.child is not None]
        if not fronts and engine is None:
            self.ended.set_result(self._drained)
        elif not fronts and engine is not None and not self._engine_stops:
            self._engine_stops = True
            self.handing.close()
            rest = max(since + self._options.drain_seconds - now, 1.0)
            self._kill_at = now + rest + self._timing.margin
            if engine.ready:
                engine.stop(rest)
            else:
                engine.kill()
        elif now > self._kill_at:
            for child in fronts or self.children:
                if child.problem is None:
                    child.problem = "did not stop in time"
                    logger.error(
                        "a process did not stop in time and is killed", extra={"fields": {"process": child.name}}
                    )
                    child.kill()

    def _fail(self, error: FletcherError) -> None:
        """End the start with an error."""
        if not self.started.done():
            self.started.set_exception(error)
        self.kill()
