"""Names in certificates of clients, in the form that Python's `ssl` returns for real certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509

from fletcher.serve.tls.names import client_name

from .conftest import Authority

URI = x509.UniformResourceIdentifier("spiffe://example.org/worker")
DNS = x509.DNSName("worker.example.org")
MAIL = x509.RFC822Name("worker@example.org")


def peer(authority: Authority, folder: Path, common_name: str, names: tuple[x509.GeneralName, ...]) -> object:
    """Return the dictionary of a client's certificate, after a handshake in memory."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.server().write(folder))
    server.load_verify_locations(cadata=authority.pem.decode())
    server.verify_mode = ssl.CERT_REQUIRED
    client = authority.trust(authority.issue(common_name, names, client=True), folder)
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(one, other, server_side=True), client.wrap_bio(other, one, server_hostname="localhost")]
    for _ in range(8):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].getpeercert()


@pytest.mark.parametrize(
    ("common_name", "names", "expected"),
    [
        ("worker", (), "worker"),
        ("worker", (DNS,), "worker.example.org"),
        ("worker", (MAIL,), "worker@example.org"),
        ("worker", (MAIL, DNS, URI), "spiffe://example.org/worker"),
        ("arbeiter-ä", (), None),
        ("line\nbreak", (), None),
        ("worker" * 10, (x509.DNSName("a" * 300),), None),
    ],
)
def test_the_first_uri_dns_name_or_address_else_the_common_name(
    tmp_path: Path, authority: Authority, common_name: str, names: tuple[x509.GeneralName, ...], expected: str | None
) -> None:
    assert client_name(peer(authority, tmp_path, common_name, names)) == expected  # type: ignore[arg-type]


def test_a_client_without_a_certificate_has_no_name() -> None:
    assert client_name(None) is None
    assert client_name({}) is None
