"""`ChildProcess`: a process with its control socket, from its start to its end."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from ..config import ProcessConfig
from ..control import Channel
from ..messages import Connections, Failed, Ping, Pong, Ready, Received, Report, Stop, Stopped

__all__ = ["CHILD_COMMAND", "USUAL_TIMING", "ChildProcess", "Timing"]

logger = logging.getLogger("fletcher.serve.fronts")

#: Command of a child; its role and the descriptor of its control socket follow.
CHILD_COMMAND: Final = (sys.executable, "-m", "fletcher.serve.fronts.child")

#: Signals that a terminal or systemd sends to every process of a group. The supervisor decides what its children do.
BLOCKED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Connections that were handed to a front and that its event loop has not taken. The others wait in the listening socket:
#: else a client that connects faster than the front answers makes a queue in it, and requests on open connections wait, too.
MAX_ON_THE_WAY: Final = 16


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that the supervisor waits.

    Attributes:
        ping: between two pings of a front.
        late: for the answer to a ping; then other fronts get the connections that come.
        hang: for the answer to a ping; then the front is killed.
        front_start: for a front to become ready, from the moment at which the engine is ready.
        first_delay: before the second restart in a row; each further one waits twice as long.
        max_delay: before a restart at most.
        stable: that a child must have worked for its next end to be the first in a row.
        margin: for the end of a process, above the time that it has to answer open requests.
    """

    ping: float = 1.0
    late: float = 1.0
    hang: float = 10.0
    front_start: float = 120.0
    first_delay: float = 0.1
    max_delay: float = 10.0
    stable: float = 30.0
    margin: float = 5.0

    def delay(self, ends: int) -> float:
        """Return the seconds before a restart.

        Args:
            ends: number of ends in a row, at least 1.
        """
        return 0.0 if ends < 2 else min(self.first_delay * 2.0 ** min(ends - 2, 30), self.max_delay)


USUAL_TIMING: Final = Timing()


class ChildProcess:
    """A child: its process, its control socket, and the connections on the way to it. One thread uses it.

    Attributes:
        name: name for the log: `engine`, or `front 3`.
        channel: control socket.
        ready: whether it works.
        ready_since: time at which it became ready.
        started: time of its start.
        problem: reason for which the supervisor killed it, or None.
        failed: error of its start, or None.
        stopped: its last message, or None.
        full: whether the control socket did not take the last connection.
        late: whether the answer to a ping is late.
    """

    def __init__(self, command: Sequence[str], config: ProcessConfig) -> None:
        """Start the process and send it its configuration.

        Args:
            command: command, to which role and descriptor are appended.
            config: configuration of the process.

        Raises:
            OSError: the system does not start it.
        """
        role = "front" if config.front else "engine"
        self.name = f"front {config.front}" if config.front else role
        ours, theirs = socket.socketpair()
        try:
            # The child inherits the mask and unblocks the signals when it ignores them, so that none can end it before.
            with theirs, _blocked_signals():
                self._process = subprocess.Popen(
                    [*command, role, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
        except BaseException:
            ours.close()
            raise
        self.channel = Channel(ours)
        self.channel.send(config)
        self.ready = self.full = self.late = False
        self.ready_since = 0.0
        self.started = time.monotonic()
        self.problem: str | None = None
        self.failed: Failed | None = None
        self.stopped: Stopped | None = None
        self._on_the_way: deque[socket.socket] = deque()
        self._handed = self._received = self._begun = self._closed = 0
        self._pinged: float | None = None
        self._answered = 0.0

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def open(self) -> int:
        """Number of connections that were handed over and are open, as far as the front has reported it."""
        return self._handed - self._closed

    @property
    def takes(self) -> bool:
        """True if a connection can be handed over now."""
        waiting = self._handed - self._begun
        return self.ready and not self.full and not self.channel.ended and waiting < MAX_ON_THE_WAY

    def hand_over(self, connection: socket.socket) -> bool:
        """Pass a connection. A copy stays here until the front has received it.

        Returns:
            Whether the connection was passed; otherwise it stays the caller's.
        """
        if not self.channel.offer(connection):
            self.full = True
            return False
        self._on_the_way.append(connection)
        self._handed += 1
        return True

    def take_back(self) -> list[socket.socket]:
        """Return the connections that an ended front has not received. Nothing has been read from them."""
        connections = list(self._on_the_way)
        self._on_the_way.clear()
        return connections

    def receive(self, now: float) -> list[Report]:
        """Return the messages that have arrived, without those that only this class needs.

        Args:
            now: time of the clock.
        """
        others: list[Report] = []
        try:
            for message in self.channel.receive():
                match message:
                    case Received():
                        self.full = False
                        while self._received < message.count and self._on_the_way:
                            self._on_the_way.popleft().close()
                            self._received += 1
                    case Connections():
                        self._begun, self._closed = message.begun, message.closed
                    case Pong():
                        self._pinged, self._answered, self.late = None, now, False
                    case _:
                        self._note(message, now)
                        others.append(message)
        except msgspec.DecodeError:
            logger.exception("a child sent a message that does not exist", extra={"fields": {"process": self.name}})
            self.kill()
        return others

    def _note(self, message: Report, now: float) -> None:
        match message:
            case Ready():
                self.ready, self.ready_since, self._answered = True, now, now
            case Failed():
                self.failed = message
            case Stopped():
                self.stopped = message

    def flush(self) -> None:
        """Send what the control socket did not take before."""
        self.channel.flush()
        self.full = bool(self.channel.backlog)

    def stop(self, drain_seconds: float) -> None:
        """Tell the child to answer what is open, and to end."""
        self.channel.send(Stop(drain_seconds))

    def ping(self, now: float, timing: Timing) -> bool:
        """Ask whether the child works, if it is time.

        Args:
            now: time of the clock.
            timing: seconds to wait.

        Returns:
            Whether it works; False if it has not answered in time.
        """
        if self._pinged is not None:
            self.late = now - self._pinged >= timing.late
            return now - self._pinged < timing.hang
        if now - self._answered >= timing.ping:
            self._pinged = now
            self.channel.send(Ping())
        return True

    def forgive(self, now: float) -> None:
        """Let the time for the answer to a ping begin now: the supervisor itself did not run."""
        if self._pinged is not None:
            self._pinged = now

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        return self._process.wait()

    def close(self) -> None:
        """Close the control socket and the connections on the way."""
        self.channel.close()
        for connection in self.take_back():
            connection.close()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
