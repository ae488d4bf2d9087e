"""Bounds of what a client can make the server hold: heads, pipelines, slow heads, unread answers, and bodies."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from fletcher.serve.http import app as app_module
from fletcher.serve.http import protocol as protocol_module
from fletcher.serve.http.protocol import HEAD_BYTES, PIPELINE, Protocol
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

pytestmark = pytest.mark.heavy  # by the seconds that it waits

SECONDS = 10.0
GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
def client(server: Server) -> Iterator[socket.socket]:
    with connect(server) as connection:
        yield connection


def connect(server: Server) -> socket.socket:
    assert server.addresses.http is not None
    host, _, port = server.addresses.http.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def read_all(connection: socket.socket) -> bytes:
    """Return everything until the server closes the connection."""
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionError:
        pass
    return data


def send(connection: socket.socket, data: bytes) -> None:
    """Send data; the server may close the connection meanwhile."""
    with contextlib.suppress(OSError):
        connection.sendall(data)


def test_a_head_within_the_limit_is_read(client: socket.socket) -> None:
    client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-long: %b\r\n\r\n" % (b"a" * (HEAD_BYTES - 200)))
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "line", [b"x-long: %b", b"a: b\r\n%b", b"x: y\r\n" * 20_000 + b"%b"], ids=["value", "name", "many"]
)
def test_a_longer_head_is_refused(client: socket.socket, line: bytes) -> None:
    send(client, b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + line % (b"a" * (4 * HEAD_BYTES)))
    assert read_all(client).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nHost: localhost",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example",
        b"GET /health HTTP/1.0\r\nhost: evil.example\r\nhost: localhost",
        b"GET /health HTTP/0.9\r\nhost: localhost",
        b"GET /health",
    ],
)
def test_a_request_without_one_host_is_refused(client: socket.socket, head: bytes) -> None:
    """A proxy and the server must not read different names, or one request where the other reads none."""
    send(client, head + b"\r\n\r\n" + GET)
    answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400") and b" 200 " not in answer


def test_the_oldest_clients_need_no_host(client: socket.socket) -> None:
    send(client, b"GET /health HTTP/1.0\r\n\r\n")
    assert read_all(client).startswith(b"HTTP/1.1 200")


def test_a_longer_target_is_refused(client: socket.socket) -> None:
    send(client, b"GET /" + b"a" * (4 * HEAD_BYTES))
    assert read_all(client).startswith(b"HTTP/1.1 431")


def test_endless_trailers_end_the_connection(client: socket.socket) -> None:
    head = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    send(client, head + b"x-trailer: " + b"a" * (4 * HEAD_BYTES))
    started = time.monotonic()
    read_all(client)
    assert time.monotonic() - started < SECONDS / 2


def test_a_body_in_chunks_of_one_byte_is_read(http_url: str) -> None:
    body = json.dumps({"inputs": "ab " * 20_000}).encode()
    answer = httpx.post(f"{http_url}/embed", content=(body[at : at + 1] for at in range(len(body))), timeout=SECONDS)
    assert answer.status_code == 200


def test_every_request_of_a_long_pipeline_is_answered(client: socket.socket) -> None:
    count = 4 * PIPELINE
    sender = threading.Thread(
        target=client.sendall,
        args=(GET * count + GET.replace(b"localhost\r\n", b"localhost\r\nconnection: close\r\n"),),
    )
    sender.start()
    answers = read_all(client)
    sender.join()
    assert answers.count(b"HTTP/1.1 200 OK") == count + 1


def test_a_pipeline_whose_answers_are_not_read_is_not_read_either(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued: list[int] = []
    parse = Protocol._parse

    def spied(self: Protocol, data: bytes) -> None:
        parse(self, data)
        queued.append(len(self.pipeline))

    monkeypatch.setattr(Protocol, "_parse", spied)
    client.settimeout(1.0)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 << 20:
            sent += client.send(GET * 1000)
    # One step of the parser holds at most so many requests beyond the limit.
    assert max(queued) <= PIPELINE + protocol_module.STEP_BYTES // len(GET) + 1


def test_a_slow_head_after_the_first_request_ends_the_connection(
    client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.sendall(GET)
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
    monkeypatch.setattr(protocol_module, "HEADER_SECONDS", 0.3)
    started = time.monotonic()
    for byte in GET:
        send(client, bytes([byte]))
        time.sleep(0.05)
    assert read_all(client) == b""
    assert time.monotonic() - started < SECONDS


def test_blank_lines_do_not_keep_a_connection_open(client: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    client.sendall(GET)
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
    monkeypatch.setattr(protocol_module, "HEADER_SECONDS", 0.3)
    for _ in range(20):
        send(client, b"\r\n")
        time.sleep(0.05)
    assert read_all(client) == b""


def test_a_client_that_does_not_read_its_answer_loses_the_connection(
    server: Server, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol_module, "UNREAD_SECONDS", 0.3)
    body = json.dumps({"input": ["ab"] * 2048, "model": "fake-model"}).encode()
    budget = server._surroundings.limits.budget
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    sender = threading.Thread(target=send, args=(client, request * 100))
    sender.start()
    sender.join(SECONDS)
    assert not sender.is_alive()  # the server has closed the connection
    until = time.monotonic() + SECONDS
    while budget.used and time.monotonic() < until:
        time.sleep(0.05)
    assert budget.used == 0


def test_bytes_of_an_unread_answer_are_held(
    server: Server, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "PIECE_BYTES", 1024)
    body = json.dumps({"input": ["ab"] * 2048, "model": "fake-model", "encoding_format": "bytes"}).encode()
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    budget = server._surroundings.limits.budget
    sender = threading.Thread(target=send, args=(client, request * 500), daemon=True)
    sender.start()
    time.sleep(1.5)
    assert budget.used >= len(body) + 2048 * 8 * 4  # the body, and the float32 vectors of 8 elements
    client.shutdown(socket.SHUT_RDWR)
    sender.join(SECONDS)


def test_too_many_connections_are_closed(fake_encoder: FakeEncoder) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", max_connections=6, max_connections_per_address=2)
    with Server(fake_encoder, options) as server:
        kept = [connect(server), connect(server)]
        for connection in kept:
            connection.sendall(GET)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with connect(server) as third:
            send(third, GET)
            assert read_all(third) == b""
        kept[0].close()
        time.sleep(0.2)
        with connect(server) as fourth:
            fourth.sendall(GET)
            assert fourth.recv(1 << 16).startswith(b"HTTP/1.1 200")
        kept[1].close()


def test_bodies_that_never_end_share_a_budget(server: Server) -> None:
    budget = server._surroundings.limits.budget
    budget.lower(1 << 20)
    head = b"POST /embed HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n\r\n"
    with connect(server) as first, connect(server) as second:
        first.sendall(head + b" " * 700_000)
        until = time.monotonic() + SECONDS
        while budget.used < 700_000 and time.monotonic() < until:
            time.sleep(0.01)
        send(second, head + b" " * 700_000)
        assert second.recv(1 << 16).startswith(b"HTTP/1.1 429")
        assert budget.used <= 1 << 20


def test_a_request_that_needs_more_than_the_budget_is_refused(server: Server, http_url: str) -> None:
    server._surroundings.limits.budget.lower(1 << 16)
    answer = httpx.post(f"{http_url}/embed", json={"inputs": "a" * 40_000})
    assert answer.status_code == 413
    assert httpx.post(f"{http_url}/embed", json={"inputs": "ab"}).status_code == 200
    assert server._surroundings.limits.budget.used == 0


def test_an_error_does_not_repeat_a_long_name(http_url: str) -> None:
    body = {"input": "a", "model": "m" * 1_000_000}
    answer = httpx.post(f"{http_url}/v1/embeddings", json=body)
    assert answer.status_code == 404
    assert len(answer.content) < 10_000
    answer = httpx.post(f"{http_url}/v1/embeddings", json={"input": "a", "f" * 1_000_000: 1})
    assert answer.status_code == 400
    assert len(answer.content) < 10_000
