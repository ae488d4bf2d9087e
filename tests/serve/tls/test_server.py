"""TLS of a server of one process: real clients of HTTP and Flight, clients with certificates, certificates exchanged."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow.flight as fl
import pytest
from cryptography import x509

from fletcher.runtime.errors import InputError
from fletcher.serve.access.keys_file import add_key
from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder, expected
from .conftest import DAY, Authority, Pair

SECONDS = 20.0
BODY = {"model": "fake-model", "input": "ab"}


class Running:
    """A server with TLS, its files and its records."""

    def __init__(self, folder: Path, authority: Authority, pair: Pair, **options: Any) -> None:
        self.authority = authority
        self.folder = folder
        self.files = pair.write(folder)
        self.records: list[RequestRecord] = []
        settings: dict[str, Any] = {"http": "127.0.0.1:0", "flight": "off", "drain_seconds": 5} | options
        self.server = Server(
            FakeEncoder(),
            ServerOptions(tls_cert=str(self.files[0]), tls_key=str(self.files[1]), **settings),
            consumers=[self.records.append],
        )

    @property
    def url(self) -> str:
        assert self.server.addresses.http is not None
        return self.server.addresses.http

    @property
    def flight(self) -> str:
        assert self.server.addresses.flight is not None
        return self.server.addresses.flight

    def embed(self, client: Pair | None = None, **headers: str) -> httpx.Response:
        context = self.authority.trust(client, self.folder)
        with httpx.Client(verify=context, timeout=SECONDS) as session:
            return session.post(f"{self.url}/v1/embeddings", json=BODY, headers=headers)

    def serial(self) -> int:
        """Return the serial number of the certificate that a new connection gets."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None and parts.port is not None
        der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((parts.hostname, parts.port)))
        return x509.load_der_x509_certificate(der).serial_number

    def metric(self, name: str) -> list[str]:
        page = httpx.get(f"{self.url}/metrics", verify=self.authority.trust()).text
        return [line for line in page.splitlines() if line.startswith(name)]


def serial_of(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.certificate).serial_number


@pytest.fixture
def start(tmp_path: Path, authority: Authority) -> Iterator[Any]:
    running: list[Running] = []

    def begin(pair: Pair | None = None, **options: Any) -> Running:
        running.append(Running(tmp_path / "tls", authority, pair or authority.server(), **options))
        return running[-1]

    yield begin
    for one in running:
        one.server.stop()


@pytest.fixture
def authorities(tmp_path: Path, authority: Authority) -> str:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.pem)
    return str(path)


def until(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_http_answers_over_tls_only(start: Any) -> None:
    server = start()
    assert server.url.startswith("https://127.0.0.1:")
    assert server.embed().json()["data"][0]["embedding"] == expected("ab").tolist()
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.url}/health", timeout=SECONDS)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{server.url.replace('https', 'http')}/health", timeout=SECONDS)


def test_ipv6(start: Any) -> None:
    server = start(http="[::1]:0")
    assert server.url.startswith("https://[::1]:")
    assert server.embed().status_code == 200


def test_old_versions_and_ciphers_are_refused(start: Any, authority: Authority) -> None:
    server = start()
    for change in ("version", "cipher"):
        context = authority.trust()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if change == "version":
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.warns(DeprecationWarning):
                context.maximum_version = ssl.TLSVersion.TLSv1_1
        else:
            context.set_ciphers("AES128-SHA:AES256-SHA:ECDHE-ECDSA-AES128-SHA")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health", verify=context)
    context = authority.trust()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert httpx.get(f"{server.url}/health", verify=context).status_code == 200


def test_flight_answers_over_tls(start: Any, authority: Authority) -> None:
    server = start(http="off", flight="127.0.0.1:0")
    assert server.flight.startswith("grpc+tls://127.0.0.1:")
    with fl.connect(server.flight, tls_root_certs=authority.pem) as client:
        results = client.do_get(fl.Ticket(b'{"texts": ["ab"]}')).read_all()
        info = client.get_flight_info(fl.FlightDescriptor.for_path(b"embed"))
    assert results.column("vector").to_pylist()[0] == pytest.approx(expected("ab").tolist())
    assert info.endpoints[0].locations[0].uri.decode() == server.flight
    assert [record.peer for record in server.records] == ["127.0.0.1", "127.0.0.1"]
    with (
        fl.connect(server.flight.replace("+tls", "")) as client,
        pytest.raises(fl.FlightUnavailableError),
    ):
        list(client.do_action("health", fl.FlightCallOptions(timeout=2)))


def test_the_metric_is_the_end_of_the_certificate(start: Any) -> None:
    server = start(flight="127.0.0.1:0")
    end = x509.load_pem_x509_certificate(server.files[0].read_bytes()).not_valid_after_utc.timestamp()
    lines = server.metric("fletcher_certificate_expiry_seconds{")
    assert [float(line.rpartition(" ")[2]) for line in lines] == [end, end]
    assert {line.partition('"')[2].partition('"')[0] for line in lines} == {"http", "flight"}


# Clients with certificates --------------------------------------------------------------------------------------------


def test_a_client_needs_a_certificate_of_the_ca(start: Any, authority: Authority, authorities: str) -> None:
    server = start(tls_client_ca=authorities)
    worker = authority.issue("worker", client=True)
    assert server.embed(worker).status_code == 200
    assert server.records[-1].client == "certificate:worker"
    for refused in (None, Authority("Other CA").issue("worker", client=True), authority.issue("x", end=-DAY / 2)):
        with pytest.raises(httpx.HTTPError):
            server.embed(refused)


def test_limits_and_models_are_those_of_the_name(
    start: Any, authority: Authority, authorities: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    add_key(keys, "Worker", certificate="worker.example.org", models=("other",))
    add_key(keys, "Operator", "admin", certificate="operator")
    token = add_key(keys, "Program")
    server = start(tls_client_ca=authorities, keys=str(keys), admin="on", limit=("requests=2/day",))
    worker = authority.issue("worker", (x509.DNSName("worker.example.org"),), client=True)
    operator = authority.issue("operator", client=True)
    answer = server.embed(worker)
    assert answer.status_code == 403 and "is not for the model" in answer.text
    assert server.records[-1].client == "Worker"
    assert [server.embed(operator).status_code for _ in range(3)] == [200, 200, 429]
    unknown = server.embed(authority.issue("unknown", client=True))
    assert unknown.status_code == 401 and "does not name this client's certificate" in unknown.text
    # A key counts more than the certificate of the connection.
    assert server.embed(operator, authorization=f"Bearer {token}").status_code == 200
    assert server.records[-1].client == "Program"
    with httpx.Client(verify=authority.trust(operator, server.folder), base_url=server.url) as client:
        assert client.get("/admin/models").status_code == 200
    with httpx.Client(verify=authority.trust(worker, server.folder), base_url=server.url) as client:
        assert client.get("/admin/models").status_code == 403


def test_a_header_is_not_a_certificate(start: Any, authority: Authority, authorities: str) -> None:
    server = start(tls_client_ca=authorities, tls_clients="optional", flight="127.0.0.1:0")
    assert server.embed(**{"x-fletcher-certificate": "worker"}).status_code == 401
    with (
        fl.connect(server.flight, tls_root_certs=authority.pem) as client,
        pytest.raises(fl.FlightUnauthenticatedError),
    ):
        options = fl.FlightCallOptions(headers=[(b"x-fletcher-certificate", b"worker")])
        client.do_get(fl.Ticket(b'{"texts": ["ab"]}'), options).read_all()


def test_a_page_of_another_site_cannot_use_the_certificate_of_a_browser(
    start: Any, authority: Authority, authorities: str
) -> None:
    server = start(tls_client_ca=authorities)
    user = authority.issue("user", client=True)
    assert server.embed(user, origin="https://evil.example").status_code == 403
    assert server.embed(user, **{"sec-fetch-site": "cross-site"}).status_code == 403


def test_flight_knows_the_name_of_the_client(
    start: Any, authority: Authority, authorities: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    spiffe = "spiffe://example.org/" + "w" * 150  # longer than the name of a Unix socket
    add_key(keys, "Worker", certificate=spiffe)
    add_key(keys, "Monitor", "monitor", certificate="monitor")
    server = start(flight="127.0.0.1:0", tls_client_ca=authorities, keys=str(keys), limit=("requests=2/day",))

    def connect(pair: Pair) -> Any:
        return fl.connect(
            server.flight, tls_root_certs=authority.pem, cert_chain=pair.certificate, private_key=pair.key
        )

    ticket = fl.Ticket(b'{"texts": ["ab"]}')
    with connect(authority.issue("w", (x509.UniformResourceIdentifier(spiffe),), client=True)) as client:
        for _ in range(2):
            assert client.do_get(ticket).read_all().num_rows == 1
        with pytest.raises(fl.FlightUnavailableError, match="over its limit of requests"):
            client.do_get(ticket)
        with pytest.raises(fl.FlightUnauthorizedError):
            list(client.do_action("stats"))
    assert [record.client for record in server.records] == ["Worker"] * 4
    with connect(authority.issue("monitor", client=True)) as client:
        assert b"fletcher_" in next(iter(client.do_action("stats"))).body.to_pybytes()
        with pytest.raises(fl.FlightUnauthorizedError):
            client.do_get(ticket)
    with (
        connect(authority.issue("unknown", client=True)) as client,
        pytest.raises(fl.FlightUnauthenticatedError, match="does not name"),
    ):
        client.do_get(ticket)


def test_a_revoked_certificate_opens_no_connection(
    start: Any, authority: Authority, authorities: str, tmp_path: Path
) -> None:
    kept, revoked = (authority.issue(name, client=True) for name in ("kept", "revoked"))
    lists = tmp_path / "revoked.pem"
    lists.write_bytes(authority.revoke())
    server = start(tls_client_ca=authorities, tls_client_crl=str(lists), flight="127.0.0.1:0")

    def flight(pair: Pair) -> Any:
        own = {"cert_chain": pair.certificate, "private_key": pair.key}
        with fl.connect(server.flight, tls_root_certs=authority.pem, **own) as client:
            return client.do_get(fl.Ticket(b'{"texts": ["ab"]}'), fl.FlightCallOptions(timeout=2)).read_all().num_rows

    for pair in (kept, revoked):
        assert server.embed(pair).status_code == 200
        assert flight(pair) == 1
    lists.write_bytes(authority.revoke(revoked))
    server.server.reload_files()
    assert server.embed(kept).status_code == 200
    assert flight(kept) == 1
    with pytest.raises(httpx.HTTPError):
        server.embed(revoked)
    with pytest.raises((fl.FlightUnavailableError, fl.FlightTimedOutError)):
        flight(revoked)
    # A list that cannot be used changes nothing.
    lists.write_bytes(authority.revoke(begin=-2 * DAY, end=-DAY))
    with pytest.raises(InputError, match="expired"):
        server.server.reload_files()
    assert server.embed(kept).status_code == 200
    lines = server.server.models.metrics.exposition().decode().splitlines()
    (line,) = [line for line in lines if line.startswith("fletcher_revocation_list_expiry_seconds ")]
    assert abs(float(line.split()[1]) - time.time() - DAY.total_seconds()) < 3600


# Exchanges ------------------------------------------------------------------------------------------------------------


def test_a_new_pair_serves_new_connections_and_open_ones_go_on(start: Any, authority: Authority) -> None:
    server = start()
    first = serial_of(Pair(*[path.read_bytes() for path in server.files]))
    with httpx.Client(verify=authority.trust(), base_url=server.url, timeout=SECONDS) as kept:
        assert kept.post("/v1/embeddings", json=BODY).status_code == 200
        assert server.serial() == first
        second = authority.server(end=5 * DAY)
        second.write(server.folder)
        until(lambda: server.serial() == serial_of(second))  # the files are watched
        stream = kept.post("/v1/embeddings", json=BODY).extensions["network_stream"]
        der = stream.get_extra_info("ssl_object").getpeercert(True)
        assert x509.load_der_x509_certificate(der).serial_number == first
    end = x509.load_pem_x509_certificate(second.certificate).not_valid_after_utc.timestamp()
    assert float(server.metric("fletcher_certificate_expiry_seconds{")[0].rpartition(" ")[2]) == end


def test_files_that_cannot_be_used_change_nothing(
    start: Any, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server = start()
    good = Pair(*[path.read_bytes() for path in server.files])
    other = authority.server()
    for bad, reason in (
        (authority.server(begin=-5 * DAY, end=-DAY), "expired"),
        (replace(other, key=good.key), "does not belong"),
        (replace(other, certificate=other.certificate[:100]), "half-written"),
    ):
        bad.write(server.folder)
        with pytest.raises(InputError, match=reason):
            server.server.reload_files()
        assert server.serial() == serial_of(good)
        assert server.embed().status_code == 200
    assert float(server.metric("fletcher_certificate_refused_total")[0].rpartition(" ")[2]) >= 3
    other.write(server.folder)
    server.server.reload_files()
    assert server.serial() == serial_of(other)


def test_an_exchange_is_in_the_audit_log(start: Any, authority: Authority, tmp_path: Path) -> None:
    server = start(audit=str(tmp_path / "audit.jsonl"))
    pair = authority.server()
    pair.write(server.folder)
    server.server.reload_files()
    server.server.stop()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    change = next(line for line in lines if line.get("change") == "certificate")
    assert (change["subject"], change["result"]) == (f"{serial_of(pair):x}", "done")


def test_a_removed_ca_admits_no_new_connection(start: Any, authority: Authority, tmp_path: Path) -> None:
    old, new = Authority("Old CA"), Authority("New CA")
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(old.pem + new.pem)
    server = start(tls_client_ca=str(authorities))
    clients = [one.issue("client", client=True) for one in (old, new)]
    assert [server.embed(client).status_code for client in clients] == [200, 200]
    authorities.write_bytes(new.pem)
    server.server.reload_files()
    assert server.embed(clients[1]).status_code == 200
    with pytest.raises(httpx.HTTPError):
        server.embed(clients[0])


def test_flight_exchanges_without_ending_a_stream(start: Any, authority: Authority) -> None:
    import pyarrow as pa

    server = start(http="off", flight="127.0.0.1:0")
    batch = pa.record_batch({"text": ["ab"]})
    with fl.connect(server.flight, tls_root_certs=authority.pem) as client:
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path(b"embed"))
        writer.begin(batch.schema)
        for _ in range(3):
            authority.server().write(server.folder)
            server.server.reload_files()
            writer.write_batch(batch)
            assert reader.read_chunk().data.num_rows == 1
            with fl.connect(server.flight, tls_root_certs=authority.pem) as another:
                assert list(another.do_action("health"))
        writer.close()


# Connections ----------------------------------------------------------------------------------------------------------


def test_silent_connections_count_and_the_server_stops_at_once(start: Any, authority: Authority) -> None:
    server = start(max_connections=3, max_connections_per_address=3)
    parts = urlsplit(server.url)
    silent = [socket.create_connection((parts.hostname, parts.port), timeout=SECONDS) for _ in range(3)]
    until(lambda: _is_refused(server))
    silent[0].close()
    until(lambda: not _is_refused(server))
    began = time.monotonic()
    server.server.stop()
    assert time.monotonic() - began < 5.0
    for one in silent[1:]:
        one.settimeout(SECONDS)
        assert one.recv(1) == b""
        one.close()


def _is_refused(server: Running) -> bool:
    try:
        return server.embed().status_code != 200
    except httpx.HTTPError:
        return True


def test_a_body_of_megabytes_and_a_client_that_leaves(start: Any, authority: Authority) -> None:
    server = start()
    texts = ["ab" * 2000] * 500
    with httpx.Client(verify=authority.trust(), base_url=server.url, timeout=SECONDS) as client:
        answer = client.post("/v1/embeddings", json=BODY | {"input": texts})
        assert answer.status_code == 200 and len(answer.json()["data"]) == 500
    parts = urlsplit(server.url)
    connection = http.client.HTTPSConnection(
        parts.hostname or "", parts.port, context=authority.trust(), timeout=SECONDS
    )
    connection.request("POST", "/v1/embeddings", '{"input": "ab"}')
    connection.close()
    assert server.embed().status_code == 200


def test_a_unix_socket_has_no_tls(start: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = start(http=f"unix:{path}", flight="off")
    assert server.url == f"http+unix://{path}"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        assert client.post("/v1/embeddings", json=BODY).status_code == 200


@pytest.mark.slow
def test_ten_thousand_exchanges_under_load_fail_no_request(start: Any, authority: Authority) -> None:
    server = start()
    pairs = [authority.server() for _ in range(16)]
    stopped, failures, answered = threading.Event(), [], [0, 0]

    def load(kept: bool) -> None:
        context = authority.trust()
        session = httpx.Client(verify=context, base_url=server.url, timeout=SECONDS)
        while not stopped.is_set():
            if not kept:
                session.close()
                session = httpx.Client(verify=context, base_url=server.url, timeout=SECONDS)
            try:
                answer = session.post("/v1/embeddings", json=BODY)
            except httpx.HTTPError as error:
                failures.append(repr(error))
                continue
            if answer.status_code != 200:
                failures.append(answer.text)
            answered[kept] += 1
        session.close()

    threads = [threading.Thread(target=load, args=(kept,)) for kept in (True, True, False, False)]
    for thread in threads:
        thread.start()
    staged = [[path.with_name(f"{path.name}.{part}") for path in server.files] for part in ("one", "two")]
    for number in range(10_000):
        pair = pairs[number % len(pairs)]
        for path, content in zip(staged[number % 2], (pair.certificate, pair.key), strict=True):
            path.write_bytes(content)
        for path, target in zip(staged[number % 2], server.files, strict=True):
            path.replace(target)
        server.server.reload_files()
    stopped.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert min(answered) > 100, answered
    assert server.serial() == serial_of(pairs[9_999 % len(pairs)])
