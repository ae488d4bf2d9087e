"""A server of several processes with TLS, clients with certificates, signed tokens and an audit log."""

from __future__ import annotations

import json
import os
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.flight as fl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.audit.verify import verify
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions
from tests.doubles.issuer import Issuer

from ..tls.conftest import DAY, Authority, Pair

SECONDS = 60.0
BODY = {"model": "tiny", "input": "ab"}
TICKET = fl.Ticket(b'{"texts": ["ab"]}')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identities")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def server(tiny_artifact: Path, folder: Path, authority: Authority, issuer: Issuer) -> Iterator[Supervisor]:
    certificate, key = authority.server().write(folder)
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "crl.pem").write_bytes(authority.revoke())
    add_key(folder / "keys.json", "Operator", "admin", certificate="operator")
    add_key(folder / "keys.json", "Worker", certificate="worker")
    options = ServerOptions(
        http="127.0.0.1:0",
        flight="127.0.0.1:0",
        fronts=2,
        drain_seconds=10,
        admin="on",
        models_root="/",
        tls_cert=str(certificate),
        tls_key=str(key),
        tls_client_ca=str(folder / "ca.pem"),
        tls_client_crl=str(folder / "crl.pem"),
        tls_clients="optional",
        keys=str(folder / "keys.json"),
        jwt=str(issuer.write_settings(folder / "jwt.toml")),
        audit=str(folder / "audit.jsonl"),
        audit_texts=True,
    )
    spec = ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas", cache=0)
    with Supervisor([spec], options) as supervisor:
        yield supervisor


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> dict[str, Pair]:
    return {name: authority.issue(name, client=True) for name in ("operator", "worker", "unknown")}


def connect(server: Supervisor, authority: Authority, folder: Path, client: Pair | None = None) -> httpx.Client:
    assert server.addresses.http is not None and server.addresses.http.startswith("https://")
    return httpx.Client(verify=authority.trust(client, folder), base_url=server.addresses.http, timeout=SECONDS)


def test_fronts_know_the_names_of_clients(
    server: Supervisor, authority: Authority, folder: Path, pairs: dict[str, Pair]
) -> None:
    for _ in range(2):  # both fronts
        for name, embeds, metrics in (("operator", 200, 200), ("worker", 200, 403), ("unknown", 401, 401)):
            with connect(server, authority, folder, pairs[name]) as client:
                assert client.post("/v1/embeddings", json=BODY).status_code == embeds
                # The engine process answers these, and the front says who asks.
                assert client.get("/metrics").status_code == metrics
                assert client.get("/admin/models").status_code == metrics
    forged = {"x-fletcher-certificate": "operator"}
    with connect(server, authority, folder) as client:
        assert client.get("/admin/models", headers=forged).status_code == 401
    with connect(server, authority, folder, pairs["worker"]) as client:
        assert client.get("/admin/models", headers=forged).status_code == 403


def test_fronts_check_tokens(server: Supervisor, authority: Authority, folder: Path, issuer: Issuer) -> None:
    with connect(server, authority, folder) as client:
        for scope, metrics in (("embed", 403), ("admin", 200)):
            headers = {"authorization": f"Bearer {issuer.token(scope=scope)}"}
            assert client.post("/v1/embeddings", json=BODY, headers=headers).status_code == 200
            assert client.get("/metrics", headers=headers).status_code == metrics
        assert client.post("/v1/embeddings", json=BODY).status_code == 401


def test_flight_through_the_relay(
    server: Supervisor, authority: Authority, pairs: dict[str, Pair], issuer: Issuer
) -> None:
    assert server.addresses.flight is not None

    def flight(client: Pair | None) -> Any:
        own: dict[str, Any] = {} if client is None else {"cert_chain": client.certificate, "private_key": client.key}
        return fl.connect(server.addresses.flight, tls_root_certs=authority.pem, **own)

    with flight(pairs["operator"]) as client:
        assert client.do_get(TICKET).read_all().num_rows == 1
        assert b"fletcher_" in next(iter(client.do_action("stats"))).body.to_pybytes()
    with flight(pairs["worker"]) as client:
        assert client.do_get(TICKET).read_all().num_rows == 1
        with pytest.raises(fl.FlightUnauthorizedError):
            list(client.do_action("stats"))
    for refused in (pairs["unknown"], None):
        with flight(refused) as client, pytest.raises(fl.FlightUnauthenticatedError):
            client.do_get(TICKET)
    options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {issuer.token()}".encode())])
    with flight(None) as client:
        assert client.do_get(TICKET, options).read_all().num_rows == 1


def serials(server: Supervisor) -> set[int]:
    """Return the serial numbers that new connections get from both fronts and from the relay."""
    found = set()
    for url in (server.addresses.http, server.addresses.http, server.addresses.flight):
        parts = urlsplit(url or "")
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((parts.hostname or "", parts.port or 0)))
        found.add(x509.load_der_x509_certificate(der).serial_number)
    return found


def test_a_changed_pair_reaches_all_processes_and_no_connection_breaks(
    server: Supervisor, authority: Authority, folder: Path, pairs: dict[str, Pair]
) -> None:
    assert server.addresses.flight is not None
    batch = pa.record_batch({"text": ["ab"]})
    worker = pairs["worker"]
    with (
        connect(server, authority, folder, worker) as kept,
        fl.connect(
            server.addresses.flight,
            tls_root_certs=authority.pem,
            cert_chain=worker.certificate,
            private_key=worker.key,
        ) as client,
    ):
        assert kept.post("/v1/embeddings", json=BODY).status_code == 200
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path(b"embed"))
        writer.begin(batch.schema)
        for number in range(2):
            pair = authority.server()
            pair.write(folder)
            if number:
                server.reload()  # as SIGHUP; else the processes notice it by themselves
            end = time.monotonic() + SECONDS
            while serials(server) != {x509.load_pem_x509_certificate(pair.certificate).serial_number}:
                assert time.monotonic() < end
                time.sleep(0.05)
            assert kept.post("/v1/embeddings", json=BODY).status_code == 200
            writer.write_batch(batch)
            assert reader.read_chunk().data.num_rows == 1
        writer.close()
    with connect(server, authority, folder, pairs["operator"]) as client:
        page = client.get("/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("fletcher_certificate_expiry_seconds{")]
    end_of_pair = x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc.timestamp()
    assert [float(line.rpartition(" ")[2]) for line in lines] == [end_of_pair, end_of_pair]


def test_files_that_cannot_be_used_change_no_process(server: Supervisor, authority: Authority, folder: Path) -> None:
    before = serials(server)
    assert len(before) == 1
    good = Pair((folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes())
    other = authority.server(curve=ec.SECP384R1)
    for bad in (
        authority.server(begin=-5 * DAY, end=-DAY),
        Pair(good.certificate, other.key),
        Pair(other.certificate[:100], other.key),
    ):
        bad.write(folder)
        server.reload()
        assert serials(server) == before
    good.write(folder)
    (folder / "crl.pem").write_bytes(authority.revoke(begin=-2 * DAY, end=-DAY))
    server.reload()
    assert serials(server) == before
    (folder / "crl.pem").write_bytes(authority.revoke())


def test_a_revoked_certificate_opens_no_connection_to_any_process(
    server: Supervisor, authority: Authority, folder: Path, pairs: dict[str, Pair]
) -> None:
    worker = pairs["worker"]

    def answered() -> list[bool]:
        """Return whether both fronts and the relay answer the worker."""
        found = []
        for _ in range(2):
            try:
                with connect(server, authority, folder, worker) as client:
                    found.append(client.post("/v1/embeddings", json=BODY).status_code == 200)
            except httpx.HTTPError:
                found.append(False)
        own: dict[str, Any] = {"cert_chain": worker.certificate, "private_key": worker.key}
        with fl.connect(server.addresses.flight, tls_root_certs=authority.pem, **own) as client:
            try:
                found.append(client.do_get(TICKET, fl.FlightCallOptions(timeout=2)).read_all().num_rows == 1)
            except (fl.FlightUnavailableError, fl.FlightTimedOutError):
                found.append(False)
        return found

    assert answered() == [True] * 3
    for revoked, expected in (((worker,), [False] * 3), ((), [True] * 3)):
        (folder / "crl.pem").write_bytes(authority.revoke(*revoked))
        server.reload()
        end = time.monotonic() + SECONDS
        while answered() != expected:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_front_that_is_started_again_needs_no_issuer(
    server: Supervisor, authority: Authority, folder: Path, issuer: Issuer, pairs: dict[str, Pair]
) -> None:
    token = issuer.token()
    issuer.broken = 503
    try:
        _, fronts = server.pids
        for pid in fronts:
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + SECONDS
        while True:
            try:
                with connect(server, authority, folder, pairs["worker"]) as client:
                    if client.post("/v1/embeddings", json=BODY).status_code == 200:
                        headers = {"authorization": f"Bearer {token}"}
                        assert client.post("/v1/embeddings", json=BODY, headers=headers).status_code == 503
                        break
            except httpx.HTTPError:
                pass
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        issuer.broken = 0


def test_all_processes_write_one_audit_log(
    server: Supervisor, authority: Authority, folder: Path, pairs: dict[str, Pair], issuer: Issuer
) -> None:
    """The tests before this one, and more: fronts, engine process, both fronts killed, and a log that is moved."""
    log, moved = folder / "audit.jsonl", folder / "moved.jsonl"
    with connect(server, authority, folder, pairs["operator"]) as client:
        assert client.post("/v1/embeddings", json=BODY).status_code == 200
        assert client.delete("/admin/models/absent").status_code == 404
    _until_line(log, "absent")
    log.rename(moved)
    server.reload()
    _until_line(log, "read files")
    with connect(server, authority, folder, pairs["worker"]) as client:
        answer = client.post("/v1/embeddings", json=BODY, headers={"x-request-id": "the-last-one"})
        assert answer.status_code == 200
    _until_line(log, "the-last-one")
    findings = verify([moved, log])
    assert (findings.first, findings.faults) == (1, [])
    lines = [json.loads(line) for path in (moved, log) for line in path.read_bytes().splitlines()]
    assert lines[0]["event"] == "start"
    embedded = {line["client"] for line in lines if line.get("route") == "/v1/embeddings" and line["status"] == 200}
    assert {"Operator", "Worker"} <= embedded
    changes = [line for line in lines if line.get("change") == "unload"]
    assert [(line["client"], line["subject"], line["result"]) for line in changes] == [("Operator", "absent", "failed")]
    last = next(line for line in lines if line.get("request_id") == "the-last-one")
    assert (last["client"], last["texts"], last["model"], last["space"], last["inputs"]) == (
        "Worker",
        1,
        "tiny",
        answer.headers["x-space"],
        ["ab"],
    )


def _until_line(path: Path, text: str) -> None:
    end = time.monotonic() + SECONDS
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
