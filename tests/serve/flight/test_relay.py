"""Flight connections that the supervisor relays: real clients, several servers, slow readers, and ends on both sides."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.serve.connection_limits import ConnectionLimits
from fletcher.serve.flight.peers import peer_host, peer_name
from fletcher.serve.flight.relay import FlightRelay


class Echo(fl.FlightServerBase):  # type: ignore[misc]
    """A server that names itself and its peer, and sends streams back."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"grpc+unix://{path}")
        self.name = path.name

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        return iter([fl.Result(f"{self.name} {peer_host(context.peer())}".encode())])

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        writer.begin(reader.schema)
        for chunk in reader:
            writer.write_batch(chunk.data)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


@pytest.fixture
def servers(folder: Path) -> Iterator[list[Echo]]:
    servers = [Echo(folder / f"front-{number}") for number in range(2)]
    yield servers
    for server in servers:
        server.shutdown()


@pytest.fixture
def url(folder: Path, servers: list[Echo]) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    turns = iter(range(10**9))
    relay = FlightRelay(listener, folder, lambda: str(folder / f"front-{next(turns) % 2}"))
    port = listener.getsockname()[1]
    relay.start()
    yield f"grpc://127.0.0.1:{port}"
    relay.stop()


def descriptors() -> int:
    return len([*Path("/dev/fd").iterdir()])


def who(url: str) -> str:
    with fl.connect(url) as client:
        (result,) = client.do_action(fl.Action("who", b""))
    text: str = result.body.to_pybytes().decode()
    return text


def test_connections_go_to_the_servers_in_turn_with_the_clients_address(url: str) -> None:
    assert sorted(who(url) for _ in range(6)) == ["front-0 127.0.0.1"] * 3 + ["front-1 127.0.0.1"] * 3


def test_large_streams_come_back_whole(url: str) -> None:
    batch = pa.record_batch({"data": pa.array([os.urandom(1 << 20) for _ in range(4)], pa.binary())})

    def exchange() -> int:
        with fl.connect(url) as client:
            writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("x"))
            writer.begin(batch.schema)

            def write() -> None:
                for _ in range(10):
                    writer.write_batch(batch)
                writer.done_writing()

            thread = threading.Thread(target=write)
            thread.start()
            count = 0
            for chunk in reader:
                assert chunk.data.equals(batch)
                count += 1
            thread.join()
            writer.close()
            return count

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(exchange())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [10] * 4


def test_a_server_that_is_away_closes_the_connection_and_another_one_answers(folder: Path, servers: list[Echo]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    paths = [str(folder / "no-server-here"), None, str(folder / "front-1")]
    relay = FlightRelay(listener, folder, lambda: paths.pop(0) if len(paths) > 1 else paths[0])
    port = listener.getsockname()[1]
    relay.start()
    try:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                assert client.recv(1) == b""
        assert who(f"grpc://127.0.0.1:{port}") == "front-1 127.0.0.1"
    finally:
        relay.stop()


def test_one_address_cannot_take_all_connections(folder: Path, servers: list[Echo]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    paths = iter([str(folder / "no-server-here")])
    limits = ConnectionLimits(most=4, of_address=2)
    relay = FlightRelay(listener, folder, lambda: next(paths, str(folder / "front-0")), limits=limits)
    address = listener.getsockname()[:2]
    relay.start()
    try:
        with socket.create_connection(address, 10) as failed:
            assert failed.recv(1) == b""  # it gives its place back
        idle = [socket.create_connection(address, 10) for _ in range(2)]
        for connection in idle:
            assert connection.recv(1)  # the settings of HTTP/2
        with socket.create_connection(address, 10) as third:
            assert third.recv(1) == b""
        for connection in idle:
            connection.close()
        assert who(f"grpc://127.0.0.1:{address[1]}") == "front-0 127.0.0.1"  # gRPC tries again until they have left
    finally:
        relay.stop()


def test_no_descriptor_and_no_file_is_left(url: str, folder: Path) -> None:
    for _ in range(60):  # gRPC keeps some of its own
        who(url)
    before = descriptors()
    for _ in range(60):
        who(url)
    for _ in range(200):
        if descriptors() <= before:
            break
        threading.Event().wait(0.02)
    assert descriptors() <= before + 4  # a leak would be at least 60
    assert not [file for file in folder.iterdir() if file.name.startswith("peer-")]


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "::1", "fe80::1%eth0", "2001:db8::a-b"])
def test_names_hold_addresses(host: str) -> None:
    assert peer_host(f"unix:/tmp/folder/{peer_name(host, 12)}") == host.partition("%")[0]


def test_peers_of_grpc() -> None:
    assert peer_host("ipv4:127.0.0.1:5000") == "127.0.0.1"
    assert peer_host("ipv6:[::1]:5000") == "::1"
    assert peer_host("unix:") is None
    assert peer_host("unix:/tmp/other") is None
