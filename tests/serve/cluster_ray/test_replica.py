"""`Replica` without Ray: its models, its health, and what it reports."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow.flight as fl
import pytest

from fletcher.runtime.errors import InputError, ServiceError
from fletcher.serve.cluster_ray import flight
from fletcher.serve.cluster_ray.options import Deployment
from fletcher.serve.cluster_ray.replica import Replica
from fletcher.serve.cluster_ray.scaling import BUSY, OPEN, QUEUE
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

from ...doubles.s3_server import free_ports
from ..fake_encoder import POISON, FakeEncoder, canary, expected

MODELS = {"models": [{"path": "/fake", "name": "fake", "version": "1"}]}


class Loads:
    """Loads of fake models: a path that ends in `bad` cannot be loaded."""

    def __init__(self) -> None:
        self.made: list[FakeEncoder] = []

    def __call__(self, spec: ModelSpec) -> FakeEncoder:
        if spec.path.endswith("bad"):
            raise InputError("this model cannot be loaded")
        self.made.append(FakeEncoder())
        return self.made[-1]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    monkeypatch.setattr("fletcher.serve.surroundings.fingerprint", lambda spec: spec.path)
    return Loads()


def make(loads: Loads, flight: str = "off", **server: Any) -> Replica:
    settings = Deployment(name="d", flight=flight, server=ServerOptions(drain_seconds=2.0, **server))
    return Replica(msgspec.json.encode(settings).decode(), "127.0.0.1", load=loads)


async def ask(replica: Replica, text: str, model: str = "fake") -> httpx.Response:
    app: Any = replica.__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica") as client:
        return await client.post("/v1/embeddings", json={"input": text, "model": model})


def test_it_answers_exchanges_models_and_closes(loads: Loads) -> None:
    async def story() -> None:
        replica = make(loads)
        await replica.reconfigure(MODELS)
        await replica.check_health()
        answer = await ask(replica, "abc")
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(answer.json()["data"][0]["embedding"], expected("abc"))
        assert "x-request-id" not in answer.headers  # Ray Serve adds it
        await replica.reconfigure({"models": [{**MODELS["models"][0], "version": "2"}]})
        assert (await ask(replica, "abc", "fake@2")).status_code == 200
        assert (await ask(replica, "abc", "fake@1")).status_code == 404
        with pytest.raises(InputError, match="cannot be loaded"):
            await replica.reconfigure({"models": [{"path": "/bad", "name": "fake", "version": "3"}]})
        assert (await ask(replica, "abc", "fake@2")).status_code == 200  # nothing has changed
        await replica.close()
        await replica.check_health()  # a replica that leaves is not killed as unhealthy
        assert (await ask(replica, "abc")).status_code == 503

    asyncio.run(story())


class Registered:
    """Stands in for `Registration`, which asks an actor of Ray."""

    def __init__(self, book: object, deployment: str, address: str) -> None:
        self.addresses = [address]

    def close(self) -> None: ...


def test_replicas_of_a_node_share_a_port_of_flight(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "Registration", Registered)
    (port,) = free_ports(1)

    def ask_once(text: str) -> list[float]:
        own = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        with fl.FlightClient(f"grpc://127.0.0.1:{port}", generic_options=own) as client:
            table = client.do_get(fl.Ticket(json.dumps({"texts": [text]}).encode())).read_all()
            (info,) = client.list_flights()
            assert [one.uri.decode() for one in info.endpoints[0].locations] == [f"grpc://127.0.0.1:{port}"]
        vector: list[float] = table["vector"].to_pylist()[0]
        return vector

    async def story() -> None:
        replicas = [make(loads, flight=str(port)) for _ in range(2)]
        for replica in replicas:
            await replica.reconfigure(MODELS)
        for number in range(40):
            np.testing.assert_array_equal(await asyncio.to_thread(ask_once, f"a{number}"), expected(f"a{number}"))
        assert all(encoder.batches for encoder in loads.made)
        await replicas[0].close()
        for number in range(10):
            await asyncio.to_thread(ask_once, f"b{number}")
        await replicas[1].close()

    asyncio.run(story())


def test_a_port_of_flight_of_another_program_is_named(loads: Loads) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        async def story() -> None:
            replica = make(loads, flight=str(port))
            with pytest.raises(InputError, match=f"flight 127.0.0.1:{port}: the port is in use"):
                await replica.reconfigure(MODELS)
            await replica.close()

        asyncio.run(story())


def test_a_canary_that_fails_makes_it_unhealthy(loads: Loads) -> None:
    async def story() -> None:
        replica = make(loads)
        await replica.reconfigure(MODELS)
        await replica.check_health()
        (encoder,) = loads.made
        encoder.canary = canary(passed=False, reason="by hand")
        assert (await ask(replica, POISON)).status_code >= 500
        with pytest.raises(ServiceError):
            await replica.check_health()
        await replica.close()

    asyncio.run(story())


def test_it_reports_its_queue(loads: Loads) -> None:
    async def story() -> None:
        replica = make(loads)
        await replica.reconfigure(MODELS)
        assert await replica.record_autoscaling_stats() == {QUEUE: 0.0, BUSY: 0.0, OPEN: 0.0}
        (encoder,) = loads.made
        encoder.gate.clear()
        asked = asyncio.create_task(ask(replica, "abc"))
        for _ in range(200):
            await asyncio.sleep(0.01)
            if (await replica.record_autoscaling_stats())[OPEN] == 1.0:
                break
        else:
            raise AssertionError("the open request is not reported")
        encoder.gate.set()
        assert (await asked).status_code == 200
        reports = [await replica.record_autoscaling_stats()]
        while reports[-1][OPEN] and len(reports) < 200:  # a request is settled after its answer
            await asyncio.sleep(0.01)
            reports.append(await replica.record_autoscaling_stats())
        assert reports[-1][OPEN] == 0.0
        assert 0.0 < max(report[BUSY] for report in reports) <= 1.0
        await replica.close()

    asyncio.run(story())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fletcher-addresses")]
