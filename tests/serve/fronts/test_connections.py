"""`PassedConnections`: connections that were accepted elsewhere."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from fletcher.serve.fronts.connections import PassedConnections

from .apps import Mirror
from .test_forward import SECONDS, wait_for


@contextmanager
def passing(
    connections: PassedConnections, *, host: str = "127.0.0.1", family: int = socket.AF_INET
) -> Iterator[tuple[str, int]]:
    """Accept connections in another thread and pass them."""
    listener = socket.create_server((host, 0), family=family)

    def accept() -> None:
        while True:
            try:
                connections.add(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept)
    connections.start()
    thread.start()
    try:
        yield listener.getsockname()[:2]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        connections.stop()
        connections.join()


def test_passed_connections_are_answered_and_counted() -> None:
    counts: list[tuple[int, int]] = []
    connections = PassedConnections(Mirror(), drain_seconds=5, on_counts=lambda *count: counts.append(count))
    with passing(connections) as (host, port):
        with httpx.Client(base_url=f"http://{host}:{port}") as client:
            for _ in range(5):
                seen = client.post("/echo", content=b"body")
                assert seen.json()["body"] == "body"
                assert seen.json()["client"][0] == "127.0.0.1"
                assert "date" in seen.headers
            assert connections.open == 1
            wait_for(lambda: counts)
            assert counts[-1] == (1, 0)
        for _ in range(3):
            assert httpx.get(f"http://{host}:{port}/echo").status_code == 200
        wait_for(lambda: connections.open == 0)
        wait_for(lambda: counts and counts[-1] == (4, 4))
        assert counts == sorted(counts)


def test_small_answers_do_not_wait() -> None:
    connections = PassedConnections(Mirror(), drain_seconds=5)
    options: list[int] = []
    add = connections.add

    def noting(connection: socket.socket) -> None:
        options.append(connection.fileno())
        add(connection)

    connections.add = noting  # type: ignore[method-assign]
    with passing(connections) as address, socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.recv(100)
        twin = socket.socket(fileno=options[0])
        assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        twin.detach()


def test_stop_answers_open_requests_and_closes_idle_connections() -> None:
    connections = PassedConnections(Mirror(), drain_seconds=5)
    with passing(connections) as address:
        idle, fresh, busy = (socket.create_connection(address, timeout=SECONDS) for _ in range(3))
        idle.sendall(b"GET /echo HTTP/1.1\r\nhost: a\r\n\r\n")
        assert idle.recv(1 << 16)
        busy.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
        time.sleep(0.1)
        connections.stop()
        assert idle.recv(10) == b""
        assert fresh.recv(10) == b""
        answer = busy.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"late")
        assert b"connection: close" in answer
        assert busy.recv(10) == b""
        assert connections.join()
        late, other = socket.socketpair()
        connections.add(late)
        assert other.recv(10) == b""
        for connection in (idle, fresh, busy, other):
            connection.close()


def test_the_time_limit_of_a_stop() -> None:
    connections = PassedConnections(Mirror(), drain_seconds=0)
    with passing(connections) as address, socket.create_connection(address, timeout=SECONDS) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
        time.sleep(0.1)
        began = time.monotonic()
        connections.stop()
        connections.join()
        assert time.monotonic() - began < 5


def test_a_connection_that_has_broken_is_no_harm() -> None:
    connections = PassedConnections(Mirror(), drain_seconds=5)
    with passing(connections) as address:
        for _ in range(20):
            socket.create_connection(address).close()
        wait_for(lambda: connections.open == 0)
        assert httpx.get(f"http://{address[0]}:{address[1]}/echo").status_code == 200
