"""TLS from clients to a balancer and from it to the instances, with HTTP and Flight."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from cryptography import x509

from fletcher.serve.cluster.config import Tls
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder, expected
from ..tls.conftest import Authority
from .balancers import balanced, cluster_of

NAMES = ["haproxy", pytest.param("envoy", marks=pytest.mark.slow)]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority()
    (tmp_path / "ca.pem").write_bytes(made.pem)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    pair = made.issue("balancer", (address, x509.DNSName("localhost")))
    (tmp_path / "balancer.pem").write_bytes(pair.certificate + pair.key)
    return made


@pytest.fixture
def place(authority: Authority, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Return the addresses of HTTP and Flight of a server with TLS, whose certificate has one name."""
    pair = authority.issue("instance", (x509.DNSName("fletcher.internal"),))
    certificate, key = pair.write(tmp_path / "instance")
    options = ServerOptions(
        http="127.0.0.1:0", flight="127.0.0.1:0", tls_cert=str(certificate), tls_key=str(key), drain_seconds=5
    )
    with Server(FakeEncoder(), options) as server:
        http, flight = (str(url).rpartition("//")[2] for url in (server.addresses.http, server.addresses.flight))
        yield http, flight


@pytest.mark.parametrize("name", NAMES)
def test_both_ways_are_encrypted(name: str, place: tuple[str, str], tmp_path: Path) -> None:
    tls = Tls(
        certificate=str(tmp_path / "balancer.pem"),
        instance_ca=str(tmp_path / "ca.pem"),
        instance_name="fletcher.internal",
    )
    with balanced(name, cluster_of({"p": (("fake-model",), {"a": place})}, tls=tls), tmp_path) as running:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        body = {"input": "ab", "model": "fake-model"}
        answer = httpx.post(f"{running.http}/v1/embeddings", json=body, verify=context, timeout=20)
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"][0]["embedding"] == expected("ab").tolist()
        options = {"tls_root_certs": (tmp_path / "ca.pem").read_bytes()}
        with fl.FlightClient(running.flight.replace("127.0.0.1", "localhost"), **options) as client:
            writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), fl.FlightCallOptions(timeout=10))
            with writer:
                writer.begin(pa.schema({"text": pa.string()}))
                writer.write_batch(pa.record_batch({"text": ["ab"]}))
                writer.done_writing()
                assert reader.read_all()["vector"].to_pylist() == [expected("ab").tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_an_instance_with_another_name_gets_no_requests(name: str, place: tuple[str, str], tmp_path: Path) -> None:
    tls = Tls(instance_ca=str(tmp_path / "ca.pem"), instance_name="other.internal")
    cluster = cluster_of({"p": (("fake-model",), {"a": place})}, tls=tls, check_seconds=0.1)
    with balanced(name, cluster, tmp_path, ready=503) as running:
        answer = httpx.post(f"{running.http}/v1/embeddings", json={"input": "ab", "model": "fake-model"}, timeout=20)
    assert answer.status_code == 503
