"""Connections: offers to upgrade the protocol, and connections that their clients reset."""

from __future__ import annotations

import gc
import http.client
import json
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.http.protocol import Protocol
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import expected
from ..fronts.apps import serving

SECONDS = 20.0
BODY = b'{"model":"fake-model","input":"ab"}'
JAVA = shutil.which("java")

#: Head of a request as the HttpClient of JDK 17 sends it with its default settings, read from a socket.
JDK_HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 35\r\nHost: 127.0.0.1:8080\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c\r\n"
    b"User-Agent: Java-http-client/17.0.15\r\nContent-Type: application/json\r\n\r\n"
)
PLAIN_GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(server: Server) -> socket.socket:
    assert server.addresses.http is not None
    host, _, port = server.addresses.http.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


@pytest.fixture
def client(server: Server) -> Iterator[socket.socket]:
    with connect(server) as connection:
        yield connection


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def vector(answer: tuple[int, bytes]) -> list[float]:
    status, body = answer
    assert status == 200, body
    return list(json.loads(body)["data"][0]["embedding"])


def test_the_body_behind_an_upgrade_of_the_jdk_is_read(client: socket.socket) -> None:
    for _ in range(3):  # the client offers the upgrade with every request of the connection
        client.sendall(JDK_HEAD)
        client.sendall(BODY)
        assert vector(read_answer(client)) == expected("ab").tolist()
    client.sendall(PLAIN_GET)
    assert read_answer(client) == (200, b'{"status":"ok"}')


@pytest.mark.parametrize("size", [1, 7, len(JDK_HEAD) - 1, len(JDK_HEAD) + 1, len(JDK_HEAD + BODY)])
def test_an_upgrade_is_ignored_however_its_bytes_are_divided(client: socket.socket, size: int) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    message = JDK_HEAD + BODY
    for start in range(0, len(message), size):
        client.sendall(message[start : start + size])
        time.sleep(0.001)
    assert vector(read_answer(client)) == expected("ab").tolist()


def test_requests_that_follow_an_upgrade_at_once_are_answered_in_order(client: socket.socket) -> None:
    client.sendall(JDK_HEAD + BODY + PLAIN_GET + JDK_HEAD + BODY.replace(b"ab", b"cd"))
    with closing(client.makefile("rb")) as stream:
        answers = []
        for _ in range(3):
            answer = http.client.HTTPResponse(_Shared(stream))  # type: ignore[arg-type]
            answer.begin()
            answers.append((answer.status, answer.read()))
    assert vector(answers[0]) == expected("ab").tolist()
    assert answers[1] == (200, b'{"status":"ok"}')
    assert vector(answers[2]) == expected("cd").tolist()


class _Shared:
    """The stream of several answers on one connection, for `http.client`, which closes what it opens."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def makefile(self, _: str) -> _Shared:
        return self

    def close(self) -> None:
        """Leave the stream open."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def test_a_chunked_body_behind_an_upgrade_is_read(client: socket.socket) -> None:
    head = JDK_HEAD.replace(b"Content-Length: 35", b"Transfer-Encoding: chunked")
    client.sendall(head + b"5\r\n%b\r\n1e\r\n%b\r\n0\r\n\r\n" % (BODY[:5], BODY[5:]))
    assert vector(read_answer(client)) == expected("ab").tolist()


def test_an_upgrade_without_a_body_is_ignored(client: socket.socket) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\n"
    for protocol in (b"h2c", b"websocket"):
        client.sendall(head % protocol)
        assert read_answer(client) == (200, b'{"status":"ok"}')


def test_bytes_that_are_not_http_behind_an_upgrade_are_refused(client: socket.socket) -> None:
    client.sendall(JDK_HEAD.replace(b"Content-Length: 35", b"Transfer-Encoding: chunked") + b"no chunk\r\n")
    assert b"400" in client.recv(65536).split(b"\r\n", 1)[0]


def test_the_tunnel_of_a_proxy_is_refused(client: socket.socket) -> None:
    client.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
    assert read_answer(client)[0] in (400, 404, 405)


def test_connections_that_their_clients_reset_leave_nothing_behind(server: Server) -> None:
    """uvicorn's timer of idle connections would keep each one with its last request for 75 seconds."""

    def open_ones() -> int:
        gc.collect()
        # `isinstance` would read `__class__` of lazy modules of other tests, which imports them.
        return sum(issubclass(type(thing), Protocol) for thing in gc.get_objects())

    before = open_ones()
    for _ in range(40):
        with connect(server) as connection:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 35\r\n\r\n" + BODY)
            assert read_answer(connection)[0] == 200
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
    until = time.monotonic() + 5.0
    while open_ones() > before + 2:
        assert time.monotonic() < until, "what belongs to the connections is still there"
        time.sleep(0.05)


def post_with_java(url: str, body: str, count: int) -> list[str]:
    """Return status and answer of each POST of the JDK's HttpClient with its default settings."""
    script = str(Path(__file__).parent / "Post.java")
    ran = subprocess.run(
        ["java", script, url, body, str(count)], capture_output=True, text=True, timeout=SECONDS * 5, check=True
    )
    return ran.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(JAVA is None, reason="a JDK is not installed")
def test_the_http_client_of_the_jdk_gets_vectors(server: Server) -> None:
    for line in post_with_java(f"{server.addresses.http}/v1/embeddings", BODY.decode(), 3):
        assert line.startswith("200 ")
        assert json.loads(line[4:])["data"][0]["embedding"] == expected("ab").tolist()


@pytest.mark.slow
@pytest.mark.skipif(JAVA is None, reason="a JDK is not installed")
def test_the_http_client_of_the_jdk_gets_vectors_from_fronts(tiny_artifact: Path) -> None:
    spec = ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0)
    options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=1, admin="on")
    body = json.dumps({"model": "tiny", "inputs": "ab"})
    with Supervisor([spec], options) as server:
        lines = post_with_java(f"{server.addresses.http}/embed", body, 2)
        # The engine process answers this path: the front passes the request on.
        forwarded = post_with_java(f"{server.addresses.http}/admin/models", "{}", 1)
    assert all(line.startswith("200 [[") for line in lines)
    assert forwarded[0].startswith("400 ") and "path" in forwarded[0]


def test_a_client_that_sends_several_requests_and_leaves_ends_the_first(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):  # more than the buffers of both sockets hold
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        while (await receive())["type"] != "http.disconnect":
            pass
        ends.append(scope["path"])

    with serving(app) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=SECONDS)
        connection.sendall(b"".join(b"GET /%d HTTP/1.1\r\nhost: localhost\r\n\r\n" % number for number in range(3)))
        time.sleep(0.3)  # the first answer waits for the client to read
        assert not ends
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        end = time.monotonic() + SECONDS
        while not ends and not caplog.records:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert ends == ["/0"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
