"""Control sockets: messages, descriptors and errors that pass between the supervisor and a child."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fletcher.runtime.errors import DeadlineError, FletcherError, MissingPackageError, OverloadedError, ServiceError
from fletcher.serve.fronts.config import ProcessConfig
from fletcher.serve.fronts.control import Channel, Control
from fletcher.serve.fronts.messages import Connections, Failed, Leave, Ping, Pong, Ready, Received, Reload, Stop
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

from .test_forward import SECONDS, wait_for

CONFIG = ProcessConfig(
    specs=(ModelSpec(path="a", name="b", cache=0, weight=0.5),),
    options=ServerOptions(http="127.0.0.1:0", fronts=3, max_body="1MiB", keys="k"),
    folder="/tmp/x",
    flight="127.0.0.1:1",
    front=2,
)


class Pair:
    """Both ends of a control socket, and how often the child saw its end."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.channel, self.control = Channel(ours), Control(theirs)
        self.ends: list[ProcessConfig] = []
        self._theirs = theirs

    def begin(self) -> ProcessConfig | None:
        self.channel.send(CONFIG)
        return self.control.start(self.ends.append)

    def messages(self, count: int) -> list[Any]:
        """Wait for messages of the child."""
        arrived: list[Any] = []
        wait_for(lambda: len(arrived.extend(self.channel.receive()) or arrived) >= count)  # type: ignore[func-returns-value]
        return arrived

    def close(self) -> None:
        self.channel.close()
        self.control.close()
        wait_for(lambda: bool(self.ends) or not self.control._writer.is_alive())
        self._theirs.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_the_configuration_arrives_as_it_was_sent(pair: Pair) -> None:
    assert pair.begin() == CONFIG


def test_messages_arrive_in_their_order(pair: Pair) -> None:
    pair.begin()
    sent: list[Reload | Leave | Stop] = [Reload(), Reload((ModelSpec(path="c"),)), Leave(), Stop(1.5)]
    for message in sent:
        pair.channel.send(message)
    commands = pair.control.commands()
    assert [next(commands) for _ in sent] == sent
    pair.control.end_commands()  # from another thread, while the commands are awaited
    assert list(commands) == []
    pair.control.send(Ready())
    pair.control.send(Connections(9, 7))
    assert pair.messages(2) == [Ready(), Connections(9, 7)]


def test_connections_arrive_with_their_messages(pair: Pair) -> None:
    pair.begin()
    ends = [socket.socketpair() for _ in range(40)]
    for number, (ours, theirs) in enumerate(ends):
        wait_for(lambda theirs=theirs: pair.channel.offer(theirs))
        theirs.close()
        ours.sendall(b"%d" % number)
        if number % 10 == 9:
            pair.channel.send(Reload())
    received = 0
    for command in pair.control.commands():
        if isinstance(command, socket.socket):
            assert command.recv(10) == b"%d" % received
            assert not command.get_inheritable()
            command.close()
            received += 1
        if received == len(ends):
            break
    assert pair.messages(40) == [Received(number) for number in range(1, 41)]
    for ours, _ in ends:
        ours.close()


def test_a_ping_is_answered(pair: Pair) -> None:
    pair.begin()
    pair.channel.send(Ping())
    assert pair.messages(1) == [Pong()]


def test_a_child_that_does_not_read_blocks_no_sender() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    for _ in range(2000):
        channel.send(CONFIG)
    assert channel.backlog
    other, end = socket.socketpair()
    assert not channel.offer(other)
    theirs.close()
    channel.flush()
    assert not channel.backlog
    assert list(channel.receive()) == [] and channel.ended
    for opened in (ours, other, end):
        opened.close()


def test_the_end_of_the_supervisor_is_noticed() -> None:
    pair = Pair()
    pair.begin()
    pair.channel.close()
    wait_for(lambda: pair.ends == [CONFIG])
    pair.control.send(Ready())  # it is not read
    pair.close()


def test_the_end_of_the_supervisor_before_the_configuration() -> None:
    pair = Pair()
    pair.channel.close()
    assert pair.control.start(pair.ends.append) is None
    pair._theirs.close()


def test_a_message_in_pieces() -> None:
    ours, theirs = socket.socketpair()
    control = Control(theirs)
    source = socket.socketpair()
    line = source[0]
    sender = Channel(line)
    sender.send(CONFIG)
    data = source[1].recv(1 << 16)

    def drip() -> None:
        for start in range(0, len(data), 7):
            ours.sendall(data[start : start + 7])
            time.sleep(0.0005)

    thread = threading.Thread(target=drip)
    thread.start()
    assert control.start(lambda config: None) == CONFIG
    thread.join(SECONDS)
    ours.close()
    control.close()
    theirs.close()
    for end in source:
        end.close()


@pytest.mark.parametrize(
    "error",
    [
        ServiceError("a"),
        MissingPackageError("pyarrow", "flight", "--flight"),
        OverloadedError("b", 2.5),
        DeadlineError("c"),
    ],
)
def test_an_error_arrives_as_it_was_raised(error: FletcherError) -> None:
    again = Failed.of(error).rebuild("engine")
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_an_error_of_a_class_that_the_supervisor_does_not_have() -> None:
    class LocalError(ServiceError):
        """An error of one process."""

    failed = Failed.of(LocalError("a"))
    del LocalError
    renamed = Failed("GoneError", failed.message, failed.ancestors, {})
    assert type(renamed.rebuild("engine")) is ServiceError
    other = Failed.of(OSError(2, "no such file")).rebuild("the engine")
    assert type(other) is ServiceError and "the engine failed at its start with FileNotFoundError" in str(other)


def test_descriptors_do_not_leak(pair: Pair) -> None:
    pair.begin()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    commands = pair.control.commands()
    for _ in range(50):
        ours, theirs = socket.socketpair()
        wait_for(lambda theirs=theirs: pair.channel.offer(theirs))
        theirs.close()
        command = next(commands)
        assert isinstance(command, socket.socket)
        command.close()
        ours.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
