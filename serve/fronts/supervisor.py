"""`Supervisor`: starts the engine process and the fronts, hands them connections, watches them and starts them again."""

from __future__ import annotations

import logging
import os
import queue
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

from fletcher.runtime.errors import FletcherError, ServiceError

from ..listening import address_lines, announce
from ..models.loads import in_background
from ..models.served import ServedModel
from ..models.spec import ModelSpec
from ..observe import logs
from ..server_options import ServerOptions
from ..signals import SIGNAL_SECONDS, STOP_MARGIN, hangups, last_resort, stop_signals, wait_until_stopped
from .children.endpoints import Endpoints
from .children.group import Group
from .children.process import CHILD_COMMAND, USUAL_TIMING, ChildProcess, Timing

__all__ = ["Supervisor", "run_supervisor"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Seconds between two looks at what has no event of its own: ends of processes, pings, restarts.
LOOK_SECONDS: Final = 0.25

#: The same while the end of a process is awaited.
SHORT_LOOK_SECONDS: Final = 0.01

T = TypeVar("T")


class Supervisor:
    """A server of several processes; a context manager that answers open requests and ends the processes.

    Its own thread does the work: it accepts connections, passes them to fronts, and starts processes that end again.

    Attributes:
        addresses: addresses on which the server listens.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        options: ServerOptions | None = None,
        *,
        command: Sequence[str] = CHILD_COMMAND,
        timing: Timing = USUAL_TIMING,
        on_begin: Callable[[Supervisor], None] = lambda supervisor: None,
    ) -> None:
        """Start all processes, and wait until they are ready.

        Args:
            specs: models to serve.
            options: options of the server.
            command: command of children, to which role and descriptor are appended.
            timing: seconds to wait.
            on_begin: called before the wait, so that the processes can be ended while they start.

        Raises:
            InputError: as for `Server`.
            FletcherError: a process cannot start; the error is that of the process.
        """
        options = ServerOptions() if options is None else options
        endpoints = Endpoints.open(options)
        self.addresses = endpoints.addresses
        self._hang_seconds = timing.hang
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._group = Group(tuple(specs), options, command, timing, endpoints, self._selector)
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._listener = endpoints.listener
        self._listening = False
        self._next_look = 0.0
        self._thread = threading.Thread(target=self._run, name="fletcher-supervisor", daemon=True)
        self._thread.start()
        on_begin(self)
        try:
            _wait(self._group.started)
        except BaseException:
            self.kill()
            raise
        self.addresses = replace(self.addresses, admin=self._group.admin)

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Models as the engine announced them at its start."""
        return self._group.models

    @property
    def pids(self) -> tuple[int, tuple[int, ...]]:
        """Numbers of the processes: the engine's, and the fronts'; 0 for one that is not there."""
        engine, *fronts = (
            0 if slot.child is None else slot.child.pid for slot in (self._group.engine, *self._group.fronts)
        )
        return engine, tuple(fronts)

    @property
    def ended(self) -> bool:
        """True if the supervisor has ended, by `stop` or by a defect."""
        return self._group.ended.done()

    def reload(self, specs: Sequence[ModelSpec] | None = None) -> None:
        """Let the processes read the API keys again, and serve these models. The log has the result.

        Args:
            specs: models to serve; None keeps the present ones.
        """
        self._post(lambda: self._group.reload(None if specs is None else tuple(specs)))

    def stop(self) -> bool:
        """Stop accepting connections, answer open requests, and end the processes.

        Returns:
            True if every open request was answered in time.
        """
        self._post(self._group.stop)
        try:
            drained = _wait(self._group.ended)
        except BaseException:  # a second Ctrl+C
            self.kill()
            raise
        self._thread.join()
        return drained

    def end_children(self) -> None:
        """End the processes at once, from any thread, also if the supervisor's own thread hangs."""
        engine, fronts = self.pids
        for pid in (engine, *fronts):
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the processes at once."""
        self._post(self._group.kill)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _post(self, task: Callable[[], None]) -> None:
        """Let the thread do something."""
        self._tasks.put(task)
        try:
            self._waker.send(b"\0")
        except OSError:
            return  # it is awake already, or it has ended

    # The thread ---------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._group.ended.done():
                self._turn()
        except Exception as error:
            # The last resort, a defect of ours: without the supervisor, connections would not be accepted.
            logger.exception("the supervisor failed")
            self._group.kill()
            for future in (self._group.started, self._group.ended):
                if not future.done():
                    future.set_exception(ServiceError(f"the supervisor failed ({error}); the log has the details"))
        finally:
            self._group.close()
            self._selector.close()
            self._waker.close()
            self._woken.close()

    def _turn(self) -> None:
        """Wait for events, and do what they and the time ask for."""
        before = time.monotonic()
        seconds = SHORT_LOOK_SECONDS if self._group.changing else LOOK_SECONDS
        for key, mask in self._selector.select(seconds):
            if key.fileobj is self._woken:
                self._woken.recv(1 << 12)
            elif isinstance(key.data, ChildProcess):
                if mask & selectors.EVENT_WRITE:
                    key.data.flush()
                if mask & selectors.EVENT_READ:
                    self._group.read(key.data)
            else:
                self._group.handing.accept(self._group.ready_fronts, time.monotonic())
        now = time.monotonic()
        if now - before > self._hang_seconds / 2:  # the machine or this process was held: the answers to pings wait
            self._group.forgive(now)
        if now >= self._next_look or not self._tasks.empty() or self._group.changing:
            self._next_look = now + LOOK_SECONDS
            self._listen(False)  # a task may close the socket
            while not self._tasks.empty():
                self._tasks.get()()
            self._group.look(now)
        self._group.handing.hand_over(self._group.ready_fronts)
        self._listen(self._group.accepts and self._group.handing.wants(self._group.ready_fronts, now))
        for child in self._group.children:
            if not child.channel.ended:
                write = selectors.EVENT_WRITE if child.channel.backlog else 0
                self._selector.modify(child.channel, selectors.EVENT_READ | write, child)

    def _listen(self, wants: bool) -> None:
        """Let the selector wait for connections, or not."""
        if self._listener is None or wants == self._listening:
            return
        if wants:
            self._selector.register(self._listener, selectors.EVENT_READ)
        else:
            self._selector.unregister(self._listener)
        self._listening = wants


def run_supervisor(
    specs: Sequence[ModelSpec],
    options: ServerOptions | None = None,
    *,
    reread: Callable[[], Sequence[ModelSpec]] | None = None,
    on_listening: Callable[[Supervisor], None] | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT (Ctrl+C), then answer open requests and return.

    The call must run on the main thread, which receives the signals. A second signal within two seconds is the same signal; a
    later one ends all processes at once.

    Args:
        specs: models to serve.
        options: options of the server; `fronts` is at least 1.
        reread: returns the models to serve after SIGHUP. Default: SIGHUP reads only the keys again.
        on_listening: called when the server listens. Default: print the addresses on standard output.

    Returns:
        True if every open request was answered in time.

    Raises:
        InputError, FletcherError: as for `Supervisor`.
    """
    options = ServerOptions() if options is None else options
    logs.install(options.log_level.upper())
    seconds = options.lame_duck_seconds + options.drain_seconds + STOP_MARGIN
    started: list[Supervisor] = []
    with (
        stop_signals() as stopped,
        hangups() as hung_up,
        last_resort(stopped, seconds, lambda: _end_children(started)),
    ):
        supervisor = Supervisor(specs, options, on_begin=started.append)
        try:
            if on_listening is None:
                announce(address_lines(supervisor.addresses))
            else:
                on_listening(supervisor)
            wait_until_stopped(
                stopped,
                hung_up,
                on_hangup=lambda: in_background(partial(_reread, supervisor, reread), "fletcher-reread"),
                ended=lambda: supervisor.ended,
            )
        finally:
            logger.info("stopping")
            drained = supervisor.stop()
            logger.info("stopped", extra={"fields": {"all_answered": drained}})
    return drained


def _end_children(supervisors: Sequence[Supervisor]) -> None:
    for supervisor in supervisors:
        supervisor.end_children()


def _reread(supervisor: Supervisor, reread: Callable[[], Sequence[ModelSpec]] | None) -> None:
    """Let the processes read the keys and the models again, after SIGHUP. A failure changes nothing and is logged."""
    try:
        supervisor.reload(None if reread is None else reread())
    except FletcherError as error:
        fields = {"error": type(error).__name__, "reason": str(error)}
        logger.error("the files were read again and rejected", extra={"fields": fields})


def _wait(future: Future[T]) -> T:
    """Return the result of a future. A signal interrupts the wait."""
    while True:
        try:
            return future.result(SIGNAL_SECONDS)
        except TimeoutError:
            if future.done():
                raise
