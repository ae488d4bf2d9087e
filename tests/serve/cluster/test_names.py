"""Pools whose instances are the addresses of a DNS name, behind real balancers: HTTP, Flight, and names that change."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pyarrow.flight as fl
import pytest

from fletcher.serve.cluster.config import Balancer, Cluster, Pool
from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...doubles.names import NameServer
from ...doubles.s3_server import free_ports
from ..fake_encoder import FakeEncoder
from .balancers import Balanced, balanced

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

NAME, SERVER = "fletcher.test", "127.0.0.153"
FIRST, SECOND, THIRD = "127.0.0.2", "127.0.0.3", "127.0.0.4"

#: Seconds in which a balancer must have seen that a name has changed: HAProxy keeps valid answers for ten.
SECONDS = 40.0

#: Runs a command with another file instead of /etc/resolv.conf.
ENTER = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


@pytest.fixture
def names() -> Iterator[NameServer]:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a server of names needs root and unshare")
    try:
        server = NameServer(SERVER, NAME, [FIRST, SECOND])
    except OSError as error:
        pytest.skip(f"no server of names can listen: {error}")
    with server:
        yield server


@pytest.fixture
def answered() -> Counter[str]:
    """Return the number of requests that each instance has answered."""
    return Counter()


@pytest.fixture
def ports(answered: Counter[str]) -> Iterator[tuple[int, int]]:
    """Return the ports of HTTP and Flight of three servers, on three addresses."""
    http, flight = free_ports(2)
    with contextlib.ExitStack() as stack:
        for host in (FIRST, SECOND, THIRD):

            def count(record: RequestRecord, host: str = host) -> None:
                if record.route not in ("/ready", "/health"):
                    answered[host] += 1

            options = ServerOptions(http=f"{host}:{http}", flight=f"{host}:{flight}", drain_seconds=5)
            stack.enter_context(Server(FakeEncoder(), options, consumers=[count]))
        yield http, flight


@pytest.fixture(params=["haproxy", "envoy"])
def balancer(
    request: pytest.FixtureRequest, names: NameServer, ports: tuple[int, int], tmp_path: Path
) -> Iterator[Balanced]:
    (tmp_path / "resolv.conf").write_text(f"nameserver {SERVER}\n")
    pool = Pool(name="p", models=("fake-model",), dns=NAME, http_port=ports[0], flight_port=ports[1], most=4)
    own = [f"127.0.0.1:{port}" for port in free_ports(2)]
    cluster = Cluster(pools=(pool,), balancer=Balancer(http=own[0], flight=own[1], max_connections=500))
    inside = ["unshare", "--mount", "sh", "-c", ENTER, str(tmp_path / "resolv.conf")]
    with balanced(request.param, cluster, tmp_path, inside=inside) as running:
        yield running


def ask(balancer: Balanced) -> None:
    """Send some HTTP requests, and some Flight calls of one connection."""
    for number in range(10):
        body = {"input": f"a{number}", "model": "fake-model"}
        assert httpx.post(f"{balancer.http}/v1/embeddings", json=body, timeout=20).status_code == 200
    with fl.FlightClient(balancer.flight) as client:
        for number in range(10):
            ticket = fl.Ticket(msgspec.json.encode({"texts": [f"b{number}"]}))
            assert client.do_get(ticket).read_all().num_rows == 1


def asked_until(balancer: Balanced, answered: Counter[str], right: Callable[[], bool]) -> None:
    """Send requests, none of which fails, until the instances that answered are the right ones."""
    end = time.monotonic() + SECONDS
    while True:
        answered.clear()
        ask(balancer)
        time.sleep(0.1)  # a record is made after its answer was sent
        if right():
            return
        assert time.monotonic() < end, answered
        time.sleep(0.5)


def test_addresses_of_a_name_get_requests_while_it_has_them(
    balancer: Balanced, names: NameServer, answered: Counter[str]
) -> None:
    asked_until(balancer, answered, lambda: set(answered) == {FIRST, SECOND})
    names.addresses = [FIRST, THIRD]  # the second one still answers, and a balancer is not reloaded
    asked_until(balancer, answered, lambda: set(answered) == {FIRST, THIRD})
    assert min(answered.values()) >= 4
