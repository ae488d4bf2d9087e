"""Requests that a balancer sends to a second instance, and those that it does not, with instances that fail on purpose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from .balancers import Balanced, balanced, cluster_of

#: Requests of each kind: Envoy chooses at random between instances without open requests.
COUNT = 16

#: Longer than `retry_bytes`.
LONG = b"x" * 100_000


class Quiet(ThreadingHTTPServer):
    """Server that prints nothing when a balancer ends the connection of a look at `/ready`."""

    def handle_error(self, request: object, client_address: object) -> None: ...


@dataclass
class Stand:
    """`Stand`: an instance that is ready and answers POST as its mode says: `200`, `503`, or `close` the connection.

    Attributes:
        mode: the answer.
        paths: paths of the requests that it got, with their body.
    """

    mode: str
    paths: list[str] = field(default_factory=list)

    def __enter__(self) -> Stand:
        stand = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.answer(200)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                stand.paths.append(self.path)
                if stand.mode == "close":
                    self.close_connection = True
                else:
                    self.answer(int(stand.mode))

            def answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *parts: object) -> None: ...

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"


@pytest.fixture
def stands() -> Iterator[list[Stand]]:
    with Stand("200") as first, Stand("200") as second:
        yield [first, second]


@pytest.fixture(params=["haproxy", pytest.param("envoy", marks=pytest.mark.slow)])
def running(request: pytest.FixtureRequest, stands: list[Stand], tmp_path: Path) -> Iterator[Balanced]:
    instances = {f"s{number}": (stand.address, None) for number, stand in enumerate(stands)}
    with balanced(request.param, cluster_of({"p": (("m",), instances)}), tmp_path) as found:
        yield found


@pytest.fixture
def client(running: Balanced) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.http, timeout=20) as made:
        yield made


def post(client: httpx.Client, path: str, content: bytes = b"{}") -> int:
    """Return the status of a request; 0 if the connection ended without an answer.

    HAProxy ends a kept HTTP/1.1 connection if an instance does not answer a request that is not the connection's first one.
    """
    try:
        return client.post(path, content=content).status_code
    except httpx.RemoteProtocolError:
        return 0


@pytest.mark.parametrize("mode", ["503", "close"])
def test_only_what_computes_is_sent_again(client: httpx.Client, stands: list[Stand], mode: str) -> None:
    stands[0].mode = mode
    assert {post(client, "/v1/embeddings") for _ in range(COUNT)} == {200}
    assert stands[0].paths  # it was tried, and the second one answered
    assert len(stands[1].paths) == COUNT
    for stand in stands:
        stand.paths.clear()
    for path in ("/v1/ingest", "/v1/ingest/", "/prefix/v1/ingest"):
        statuses = [post(client, path) for _ in range(COUNT)]
        assert set(statuses) <= {0, 200, 502, 503}
        tried = stands[0].paths.count(path)
        assert tried + stands[1].paths.count(path) == COUNT, "each request reached one instance"
        assert 0 < tried == COUNT - statuses.count(200)


def test_a_long_request_is_not_sent_again(client: httpx.Client, stands: list[Stand]) -> None:
    stands[0].mode = "close"
    statuses = [post(client, "/v1/embeddings", LONG) for _ in range(COUNT)]
    tried = len(stands[0].paths)
    assert tried + len(stands[1].paths) == COUNT
    assert 0 < tried == COUNT - statuses.count(200)


def test_an_instance_that_refuses_connections_costs_no_request(client: httpx.Client, stands: list[Stand]) -> None:
    stands[0].__exit__()
    for path in ("/v1/embeddings", "/v1/ingest"):
        assert {post(client, path) for _ in range(6)} == {200}
    assert {post(client, "/v1/ingest", LONG) for _ in range(2)} == {200}
    assert len(stands[1].paths) == 14
    stands[0].__enter__()  # for the end of the fixture


def test_too_much_load_is_passed_on(client: httpx.Client, stands: list[Stand]) -> None:
    for stand in stands:
        stand.mode = "429"
    assert post(client, "/v1/embeddings") == 429
    assert sum(len(stand.paths) for stand in stands) == 1
