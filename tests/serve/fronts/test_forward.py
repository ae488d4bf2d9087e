"""Requests that a front passes on to the engine: uvicorn on both sides, a Unix socket between them."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fletcher.serve.fronts.forward import Forward, trusting_peer

from .apps import Mirror, serving, serving_path

SECONDS = 20.0


@pytest.fixture
def mirror() -> Mirror:
    return Mirror()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "engine.http")


@pytest.fixture
def url(mirror: Mirror, path: str) -> Iterator[str]:
    with serving_path(trusting_peer(mirror), path), serving(Forward(path)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        yield client


def wait_for(condition: object) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_arrives_as_it_was_sent(client: httpx.Client) -> None:
    answer = client.post("/echo?a=b%20c&d", content=b"\x00body", headers=[("x-two", "1"), ("x-two", "2")])
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["query"], seen["body"]) == ("POST", "/echo", "a=b%20c&d", "\x00body")
    assert [value for name, value in seen["headers"] if name == "x-two"] == ["1", "2"]
    assert dict(seen["headers"])["content-length"] == "5"
    assert answer.headers.get_list("x-kept") == ["1", "2"]
    assert len(answer.headers.get_list("date")) == 1


def test_an_encoded_path_stays_encoded(client: httpx.Client, mirror: Mirror) -> None:
    assert client.get("/%65cho").json()["path"] == "/%65cho"


def test_the_engine_sees_the_client_and_not_what_the_client_says(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(
            b"GET / HTTP/1.1\r\nhost: a\r\nx-fletcher-peer: 10.1.2.3 9\r\nX-Fletcher-Peer: 10.1.2.3 9\r\n"
            b"connection: close, x-fletcher-peer\r\n\r\n"
        )
        own = list(raw.getsockname())
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        body = answer.read().decode()
    assert f'"client": ["127.0.0.1", {own[1]}]' in body
    assert "10.1.2.3" not in body


def test_a_folded_header_cannot_bring_another_header(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n x-fletcher-peer: 10.1.2.3 9\r\nconnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        body = answer.read().decode()
    assert answer.status == 400 or '"client": ["127.0.0.1"' in body


def test_an_address_of_ipv6(mirror: Mirror, path: str) -> None:
    seen: list[object] = []

    async def app(scope: object, receive: object, send: object) -> None:
        assert isinstance(scope, dict)
        seen.append((scope["client"], scope["headers"]))

    scope = {"type": "http", "client": None, "headers": [(b"x-fletcher-peer", b"fe80::1 80"), (b"a", b"b")]}
    with pytest.raises(StopIteration):
        trusting_peer(app)(scope, None, None).__await__().send(None)  # type: ignore[arg-type]
    assert seen == [(("fe80::1", 80), [(b"a", b"b")])]


def test_head_has_the_headers_of_get_and_the_connection_goes_on(client: httpx.Client) -> None:
    for _ in range(3):
        head = client.head("/echo")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 100
        assert client.get("/echo").json()["method"] == "GET"


@pytest.mark.parametrize(("path_", "status"), [("/not-modified", 304), ("/no-content", 204)])
def test_answers_without_a_body(client: httpx.Client, path_: str, status: int) -> None:
    for _ in range(3):
        answer = client.get(path_)
        assert (answer.status_code, answer.content) == (status, b"")
        assert "transfer-encoding" not in answer.headers
        assert client.get("/echo").status_code == 200


def test_bodies_stream_both_ways(url: str) -> None:
    """Each part of the answer arrives before the next part of the request is sent."""
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=SECONDS) as raw:
        raw.sendall(b"POST /stream HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        seen = b""
        for part in (b"first", b"second", b"third"):
            raw.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            while part.upper() not in seen:
                received = raw.recv(1000)
                assert received
                seen += received
        raw.sendall(b"0\r\n\r\n")
        while not seen.endswith(b"0\r\n\r\n"):
            received = raw.recv(1000)
            assert received
            seen += received


def test_big_bodies(client: httpx.Client) -> None:
    body = os.urandom(3 << 20)
    assert client.post("/stream", content=body.lower()).content == body.lower().upper()
    assert client.get("/big").content == b"".join(bytes([number]) * (1 << 16) for number in range(64))


def test_a_slow_reader_slows_the_engine_down(url: str) -> None:
    with httpx.stream("GET", f"{url}/big", timeout=SECONDS) as answer:
        parts = []
        for part in answer.iter_raw(1 << 16):
            time.sleep(0.002)
            parts.append(part)
    assert len(b"".join(parts)) == 64 << 16


def test_an_answer_before_the_body_has_arrived(url: str, client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=SECONDS) as raw:
        raw.sendall(b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nbegin")
        assert raw.recv(1000).startswith(b"HTTP/1.1 413")
    assert client.get("/echo").status_code == 200


def test_the_disconnection_of_a_client_reaches_the_engine(url: str, mirror: Mirror) -> None:
    for request in (
        b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST /wait HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc",
    ):
        before = mirror.left
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as raw:
            raw.sendall(request)
            time.sleep(0.1)
        wait_for(lambda before=before: mirror.left == before + 1)


def test_connections_to_the_engine_are_used_again(url: str, mirror: Mirror, path: str) -> None:
    with serving_path(trusting_peer(mirror), path + "2") as server, serving(Forward(path + "2")) as own:
        for index in range(20):
            assert httpx.post(own, content=b"a" * index).status_code == 200
        assert server._uvicorn.open == 1


def test_100_requests_at_once(client: httpx.Client) -> None:
    limits = httpx.Limits(max_connections=100)
    with ThreadPoolExecutor(100) as pool, httpx.Client(base_url=client.base_url, timeout=60, limits=limits) as many:

        def ask(number: int) -> bool:
            paths = ["/slow", "/echo", "/big", "/stream"]
            answer = many.post(paths[number % 4], content=b"%d" % number)
            if number % 4 == 1:
                return bool(answer.json()["body"] == str(number))
            if number % 4 == 3:
                return answer.content == b"%d" % number
            return len(answer.content) == (4 if number % 4 == 0 else 4 << 20)

        assert all(pool.map(ask, range(200)))


def test_an_engine_that_is_away_is_503_until_it_is_back(mirror: Mirror, path: str) -> None:
    with serving(Forward(path)) as url, httpx.Client(base_url=url, timeout=SECONDS) as client:
        away = client.get("/echo", headers={"x-request-id": "mine"})
        assert (away.status_code, away.headers["x-request-id"], away.headers["retry-after"]) == (503, "mine", "1")
        assert away.json()["error"]["code"] == "unavailable"
        for _ in range(2):  # the second engine finds the first one's idle connections closed
            with serving_path(trusting_peer(mirror), path):
                assert client.get("/echo").status_code == 200
                assert client.post("/echo", content=b"a").status_code == 200
        assert client.get("/echo").status_code == 503


ENGINE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from tests.serve.fronts.apps import Mirror, serving_path

class Dying(Mirror):
    async def _die(self, scope, receive, send):
        os._exit(9)
    async def _begin(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begin", "more_body": True})
        os._exit(9)

with serving_path(Dying(), sys.argv[2]):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_an_engine_that_dies_in_a_request(path: str) -> None:
    def start() -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[3])
        engine = subprocess.Popen([sys.executable, "-c", ENGINE, root, path], stdout=subprocess.PIPE, text=True)
        assert engine.stdout is not None
        assert engine.stdout.readline() == "ready\n"
        return engine

    with serving(Forward(path)) as url, httpx.Client(base_url=url, timeout=SECONDS) as client:
        with start() as engine:
            assert client.get("/die").status_code == 503
            assert engine.wait() == 9
        with start() as engine:
            with pytest.raises(httpx.RemoteProtocolError):  # not a complete answer
                client.get("/begin")
            engine.wait()
        with start() as engine:
            assert client.get("/echo").status_code == 200
            engine.kill()
            engine.wait()
            assert client.post("/echo", content=b"a").status_code == 503
