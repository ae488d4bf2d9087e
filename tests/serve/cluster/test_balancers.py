"""HAProxy and Envoy with the generated configuration, in front of three servers with HTTP and Flight."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.integrations.remote import RemoteModel
from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import CARD, DIMENSION, FakeEncoder, expected
from .balancers import Balanced, balanced, cluster_of

#: Example from W3C's Trace Context, section 3.2.2.5.
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

MODEL = "x-gateway-model-name"


#: Addresses of this machine. Envoy writes one of them for a client on the loopback.
HERE = sorted(
    {each.address for found in psutil.net_if_addrs().values() for each in found if each.family == socket.AF_INET}
)


@dataclass
class Member:
    """`Member`: a server of the cluster, with the records of its requests."""

    server: Server
    encoder: FakeEncoder
    records: list[RequestRecord] = field(default_factory=list)


@dataclass
class Deployment:
    """`Deployment`: three servers behind a balancer: `a` and `b` have the model small, `c` has large."""

    balancer: Balanced
    members: dict[str, Member]

    def post(self, text: str = "ab", model: str = "small", **headers: str) -> httpx.Response:
        headers = {MODEL: model} | headers
        body = {"input": text, "model": model}
        return httpx.post(f"{self.balancer.http}/v1/embeddings", json=body, headers=headers, timeout=20)

    def embeds(self) -> dict[str, list[RequestRecord]]:
        """Return the records of each member's requests, without probes."""
        return {
            name: [each for each in member.records if each.route not in ("/ready", "/health")]
            for name, member in self.members.items()
        }

    def counted(self, ask: Callable[[], Any]) -> dict[str, int]:
        """Return the number of requests that each member answers while a function runs."""
        before = {name: len(found) for name, found in self.embeds().items()}
        ask()
        time.sleep(0.05)  # a record is made after its answer was sent
        return {name: len(found) - before[name] for name, found in self.embeds().items()}


@pytest.fixture(scope="module", params=["haproxy", pytest.param("envoy", marks=pytest.mark.slow)])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    members: dict[str, Member] = {}
    servers: list[Server] = []
    try:
        for name, model in (("a", "small"), ("b", "small"), ("c", "large")):
            encoder = FakeEncoder()
            encoder.info = msgspec.structs.replace(
                encoder.info, card=msgspec.structs.replace(CARD, name=model, aliases=())
            )
            records: list[RequestRecord] = []
            options = ServerOptions(
                http="127.0.0.1:0", flight="127.0.0.1:0", trusted_proxy=tuple(HERE), drain_seconds=10
            )
            servers.append(Server(encoder, options, consumers=[records.append]))
            members[name] = Member(servers[-1], encoder, records)
        places = {
            name: (
                str(member.server.addresses.http).removeprefix("http://"),
                str(member.server.addresses.flight).removeprefix("grpc://").removeprefix("grpc+tcp://"),
            )
            for name, member in members.items()
        }
        pools = {
            "first": (("small", "org/small-v1"), {"a": places["a"], "b": places["b"]}),
            "second": (("large",), {"c": places["c"]}),
        }
        cluster = cluster_of(pools, stats=True, check_seconds=0.1)
        with balanced(request.param, cluster, tmp_path_factory.mktemp("balancer")) as running:
            yield Deployment(running, members)
    finally:
        for server in servers:
            server.stop()


def test_requests_go_to_the_pool_of_the_model(deployment: Deployment) -> None:
    def ask() -> None:
        assert deployment.post(model="large").status_code == 200
        for model in ("small", "small@1"):
            answer = deployment.post(model=model)
            assert answer.status_code == 200, answer.text
            assert answer.json()["data"][0]["embedding"] == expected("ab").tolist()
        # The header names a pool; the instance answers by the model of the body.
        assert deployment.post(**{MODEL: "org/small-v1"}).status_code == 200

    counts = deployment.counted(ask)
    assert counts["c"] == 1 and counts["a"] + counts["b"] == 3


def test_the_client_of_the_frameworks_names_its_pool(deployment: Deployment) -> None:
    def ask() -> None:
        vectors = RemoteModel(deployment.balancer.http, "large").embed(["ab"], "raw")
        assert vectors.tolist() == [expected("ab").tolist()]
        assert RemoteModel(deployment.balancer.http, "small").dimension == DIMENSION

    assert deployment.counted(ask)["c"] == 1


@pytest.mark.parametrize(
    "headers", [{}, {MODEL: "other"}, {MODEL: "small2"}, {MODEL: "xsmall"}, {MODEL: "org/small-v12"}]
)
def test_a_request_for_no_pool_gets_404_of_the_balancer(deployment: Deployment, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{deployment.balancer.http}/v1/embeddings", json={"input": "a", "model": "x"}, headers=headers)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/metrics", "/admin/models", "/%61dmin/models", "/admin", "/metrics?x=1"])
def test_paths_of_one_instance_are_refused(deployment: Deployment, path: str) -> None:
    answer = httpx.get(f"{deployment.balancer.http}{path}", headers={MODEL: "small"})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "one_instance"


def test_instances_see_client_request_id_and_trace(deployment: Deployment) -> None:
    def ask() -> None:
        answer = deployment.post(model="large", **{"x-request-id": "mine", "x-forwarded-for": "203.0.113.7"})
        assert answer.headers["x-request-id"] == "mine"
        assert deployment.post(model="large", forwarded="for=198.51.100.1").headers["x-request-id"]

    assert deployment.counted(ask)["c"] == 2
    seen = deployment.embeds()["c"][-2:]
    assert seen[0].id == "mine"
    # The client's own address is trusted here, so the nearest address that is not is the one that the client wrote.
    assert seen[0].peer == "203.0.113.7"
    assert seen[1].peer in HERE
    assert len(seen[1].id) > 8


def test_lines_of_a_stream_arrive_while_later_ones_are_computed(deployment: Deployment) -> None:
    encoder = deployment.members["c"].encoder
    texts = [f"t{number}" for number in range(256)]
    arrived: list[float] = []
    encoder.delay = 0.02
    try:
        url, headers = f"{deployment.balancer.http}/v1/embeddings", {MODEL: "large", "accept": "application/x-ndjson"}
        with httpx.stream("POST", url, json={"input": texts, "model": "large"}, headers=headers, timeout=20) as answer:
            lines = []
            for line in answer.iter_lines():
                arrived.append(time.monotonic())
                lines.append(json.loads(line))
    finally:
        encoder.delay = 0.0
    vectors = np.array([line["embedding"] for line in lines[:-1]], np.float32)
    np.testing.assert_array_equal(vectors, np.stack([expected(text) for text in texts]))
    # 4 pieces of 64 texts: 5 tokens a text, 64 a batch, 20 ms a batch on two workers.
    assert arrived[-1] - arrived[0] > 0.1


def test_an_instance_drops_the_request_of_a_client_that_left(deployment: Deployment) -> None:
    member = deployment.members["c"]
    member.encoder.gate.clear()
    try:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(
                f"{deployment.balancer.http}/v1/embeddings",
                json={"input": "left", "model": "large"},
                headers={MODEL: "large", "x-request-id": "left"},
                timeout=0.3,
            )
        end = time.monotonic() + 10
        while not any(each.id == "left" for each in member.records) and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        member.encoder.gate.set()
    (record,) = [each for each in member.records if each.id == "left"]
    assert record.status == "left"


def test_large_bodies_pass(deployment: Deployment) -> None:
    texts = ["a" * 14] * 20_000
    body = {"input": texts[:2000], "model": "small", "user": "x" * 3_000_000}
    answer = httpx.post(f"{deployment.balancer.http}/v1/embeddings", json=body, headers={MODEL: "small"}, timeout=30)
    assert answer.status_code == 200, answer.text[:300]
    assert len(answer.json()["data"]) == 2000


def exchange(client: Any, model: str | None, texts: list[str]) -> Any:
    headers = [] if model is None else [(MODEL.encode(), model.encode())]
    options = fl.FlightCallOptions(timeout=10, headers=headers)
    writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
    with writer:
        writer.begin(pa.schema({"text": pa.string()}))
        writer.write_batch(pa.record_batch({"text": texts}))
        writer.done_writing()
        return reader.read_all()


def test_calls_of_one_flight_connection_go_to_all_instances_of_the_pool(deployment: Deployment) -> None:
    with fl.connect(deployment.balancer.flight) as client:

        def ask() -> None:
            for _ in range(6):
                table = exchange(client, "small", ["ab", "cd"])
                assert table["vector"].type == pa.list_(pa.float32(), DIMENSION)
                assert table["vector"].to_pylist() == [expected("ab").tolist(), expected("cd").tolist()]
            exchange(client, "large", ["ab"])

        counts = deployment.counted(ask)
    assert counts == {"a": 3, "b": 3, "c": 1}


def test_a_flight_call_for_no_pool_is_not_found(deployment: Deployment) -> None:
    with fl.connect(deployment.balancer.flight) as client:
        for model in (None, "other"):
            headers = [] if model is None else [(MODEL.encode(), model.encode())]
            with pytest.raises(pa.ArrowKeyError, match="no pool of the balancer has the model"):
                client.get_flight_info(
                    fl.FlightDescriptor.for_path("embed"), fl.FlightCallOptions(timeout=10, headers=headers)
                )
            # HAProxy ends a call whose client still sends with RST_STREAM, and gRPC then has no message.
            with pytest.raises((pa.ArrowKeyError, fl.FlightCancelledError)):
                exchange(client, model, ["ab"])


def test_the_balancer_has_metrics_of_its_own(deployment: Deployment, request: pytest.FixtureRequest) -> None:
    path = "/metrics" if "haproxy" in request.node.name else "/stats/prometheus"
    page = httpx.get(f"{deployment.balancer.stats}{path}").text
    assert "http_first" in page


def test_a_draining_instance_gets_no_requests_and_no_request_fails(deployment: Deployment) -> None:
    """`/ready` answers 503 while the server still answers; the balancer leaves it."""
    first = deployment.members["a"].server
    left = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client() as client:
            while not left.is_set():
                answer = client.post(
                    f"{deployment.balancer.http}/v1/embeddings",
                    json={"input": "ab", "model": "small"},
                    headers={MODEL: "small"},
                )
                statuses.append(answer.status_code)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(ask) for _ in range(4)]
        try:
            time.sleep(0.3)
            assert deployment.embeds()["a"]
            first.models.announce_stop()  # as the server does for --lame-duck-seconds
            time.sleep(0.6)  # falls x check_seconds, with a margin
            before = {name: len(found) for name, found in deployment.embeds().items()}
            time.sleep(0.3)
            after = {name: len(found) for name, found in deployment.embeds().items()}
        finally:
            left.set()
        for future in futures:
            future.result()
    assert set(statuses) == {200}
    assert after["a"] == before["a"]
    assert after["b"] > before["b"]


def test_an_instance_that_is_gone_is_not_seen_by_clients(deployment: Deployment) -> None:
    deployment.members["a"].server.stop()  # its port is closed; the instance b stays
    counts = deployment.counted(lambda: [deployment.post().raise_for_status() for _ in range(5)])
    assert counts["b"] == 5
    deployment.members["b"].server.stop()
    end = time.monotonic() + 10
    while (answer := deployment.post()).status_code != 503 and time.monotonic() < end:
        assert answer.status_code in (502, 503), answer.text
        time.sleep(0.05)
    assert answer.status_code == 503
    assert deployment.post(model="large").status_code == 200
    state = httpx.get(f"{deployment.balancer.http}/balancer/ready")
    assert state.status_code == 503
    with fl.connect(deployment.balancer.flight) as client, pytest.raises(fl.FlightUnavailableError):
        exchange(client, "small", ["ab"])
