"""Invalid bodies and connections over real sockets: gzip bombs, slow bodies, half-closed connections, mutated messages."""

from __future__ import annotations

import gc
import gzip
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...runtime.peak import needs_proc
from ..fake_encoder import FakeEncoder, expected
from .messages import Message, draw_message
from .mutations import LEAK

SECONDS = 10.0
MAX_BODY = 1 << 20
BODY = json.dumps({"model": "fake-model", "input": "ab"}).encode()


@pytest.fixture(scope="module")
def fake_encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="module")
def server(fake_encoder: FakeEncoder) -> Iterator[Server]:
    options = ServerOptions(http="127.0.0.1:0", flight="off", max_body=MAX_BODY, body_seconds=0.4, drain_seconds=5)
    with Server(fake_encoder, options) as running:
        yield running
        fake_encoder.gate.set()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS) as client:
        yield client


def connect(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port_of(server)))
    connection.settimeout(SECONDS)
    return connection


def port_of(server: Server) -> int:
    return int(str(server.addresses.http).rpartition(":")[2])


def post(http: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return http.post(
        "/v1/embeddings", content=body, headers={name.replace("_", "-"): headers[name] for name in headers}
    )


def test_gzip_bodies_are_read(http: httpx.Client) -> None:
    answer = post(http, gzip.compress(BODY), content_encoding="gzip")
    assert answer.json()["data"][0]["embedding"] == expected("ab").tolist()
    large = json.dumps({"model": "fake-model", "input": [f"{index} " + "ab" * 200 for index in range(2000)]}).encode()
    assert post(http, gzip.compress(large), content_encoding="gzip").status_code == 200


def test_a_gzip_bomb_is_not_decompressed(http: httpx.Client, server: Server) -> None:
    bomb = gzip.compress(b" " * (300 << 20))
    assert len(bomb) < 1 << 20
    started = time.monotonic()
    answer = post(http, bomb, content_encoding="gzip")
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (BODY, "gzip", 400),
        (gzip.compress(BODY, mtime=0)[:-4], "gzip", 400),
        (gzip.compress(BODY, mtime=0) + b"more", "gzip", 400),
        (BODY, "br", 415),
        (BODY, "gzip, gzip", 415),
    ],
)
def test_bodies_that_contradict_their_coding(http: httpx.Client, body: bytes, coding: str, status: int) -> None:
    answer = post(http, body, content_encoding=coding)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_slow_body_is_408_and_others_are_served_meanwhile(http: httpx.Client, server: Server) -> None:
    with connect(server) as slow:
        slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        assert post(http, BODY).status_code == 200
        received = slow.recv(65536)
    assert b" 408 " in received.split(b"\r\n", 1)[0]
    assert b"request_timeout" in received


def test_connections_with_slow_headers_are_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.http.protocol.HEADER_SECONDS", 0.3)
    with connect(server) as slow:
        slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost:")
        assert slow.recv(65536) == b""


def test_a_closed_connection_is_released_at_once(server: Server) -> None:
    def open_ones() -> int:
        gc.collect()
        # `isinstance` would read `__class__` of lazy modules of other tests, which imports them.
        return sum(issubclass(type(thing), HttpToolsProtocol) for thing in gc.get_objects())

    before = open_ones()
    for _ in range(50):
        connect(server).close()
    until = time.monotonic() + SECONDS
    while open_ones() > before + 5:
        assert time.monotonic() < until, "what belongs to fifty connections is still there"
        time.sleep(0.05)


def test_half_closed_connections_count_as_disconnected(http: httpx.Client, server: Server) -> None:
    """The server treats a client that closes its sending half like one that disconnects: no connection hangs or stays."""
    for part in (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(BODY),
        b"POST /v1",
    ):
        with connect(server) as connection:
            connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert post(http, BODY).status_code == 200
    assert server.models.open_requests == 0


def test_the_timeout_of_a_request_is_respected(http: httpx.Client, fake_encoder: FakeEncoder) -> None:
    fake_encoder.gate.clear()
    answer = post(http, BODY, x_request_timeout="0.1")
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    fake_encoder.gate.set()
    assert post(http, BODY, x_request_timeout="9", x_priority="bulk").status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-request-timeout", value) for value in ("", "soon", "-1", "0", "nan", "inf", "1e99")]
    + [("x-priority", "urgent")],
)
def test_errors_name_invalid_headers(http: httpx.Client, name: str, value: str) -> None:
    answer = http.post("/v1/embeddings", content=BODY, headers={name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].lower() == name


# Mutated messages -----------------------------------------------------------------------------------------------------------

#: Growth of the process's memory during the messages, at its peak: bodies of 1 MiB from eight clients at the same time, what
#: they become, and the clients themselves.
GROWTH = 400 << 20


def memory(key: str) -> int:
    """Return a size of this process in bytes: `VmRSS` now, `VmHWM` at its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) << 10


def send(server: Server, message: Message) -> bytes:
    """Send a message on a connection of its own; return the answers.

    A message whose frame is wrong ends with the end of the connection, so that the server does not wait for the rest.
    """
    received = b""
    with connect(server) as connection:
        try:
            connection.sendall(message.data)
            if not message.whole:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass  # the server closed the connection
        except TimeoutError:
            pytest.fail(f"the server hangs on {message!r}")
    return received


def fuzz(server: Server, count: int, seed: int) -> Counter[int]:
    """Send random messages, and count the statuses of their answers."""
    chance = random.Random(seed)
    statuses: Counter[int] = Counter()
    for _ in range(count):
        message = draw_message(chance)
        received = send(server, message)
        assert not LEAK.search(received), (message, received)
        found = re.findall(rb"^HTTP/1\.1 (\d{3})", received)
        # A client that still sends a body above the limit may find its connection closed before it has read the answer.
        assert found or not message.whole or len(message.data) > MAX_BODY, f"no answer to {message!r}"
        for status in found:
            statuses[int(status)] += 1
            assert int(status) < 500 or int(status) == 504, (
                message,
                received,
            )  # 504: a deadline that the message names
    return statuses


def assert_fuzzed(
    server: Server, records: list[RequestRecord], counters: list[Counter[int]], count: int, grown: int
) -> None:
    """Check that messages reach the application and compute, and what they cost.

    Args:
        server: the server.
        records: records of the requests that reached the application.
        counters: statuses of the answers.
        count: number of messages.
        grown: bytes by which the memory grew at its peak.
    """
    reached = sum(record.route != "unknown" for record in records)
    computed = sum(record.status == 200 and record.texts > 0 for record in records)
    assert reached >= count / 2, f"{reached} of {count} messages reach the application"
    assert computed >= count / 10, f"{computed} of {count} messages compute"
    statuses = sum(counters, Counter())
    assert statuses[400] > count / 20, statuses
    assert grown <= GROWTH, f"the memory grew by {grown >> 20} MiB"
    assert server.models.open_requests == 0


@pytest.fixture
def recorded(fake_encoder: FakeEncoder) -> Iterator[tuple[Server, list[RequestRecord]]]:
    """A server, and the records of its requests."""
    records: list[RequestRecord] = []
    options = ServerOptions(http="127.0.0.1:0", flight="off", max_body=MAX_BODY, body_seconds=0.4, drain_seconds=5)
    with Server(fake_encoder, options, consumers=[records.append]) as running:
        yield running, records


@needs_proc
def test_mutated_messages(recorded: tuple[Server, list[RequestRecord]]) -> None:
    server, records = recorded
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    statuses = fuzz(server, 400, 1)
    assert_fuzzed(server, records, [statuses], 400, memory("VmHWM") - before)


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_hundred_thousand_mutated_messages(recorded: tuple[Server, list[RequestRecord]]) -> None:
    server, records = recorded
    counters: list[Counter[int]] = []
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    threads = [
        threading.Thread(target=lambda seed=seed: counters.append(fuzz(server, 12_500, seed))) for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counters) == 8, "a thread failed: its assertion stands above"
    # The records themselves take about a kilobyte each.
    assert_fuzzed(server, records, counters, 100_000, memory("VmHWM") - before - 1000 * len(records))
