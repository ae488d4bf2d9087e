"""Files of a certificate: what is accepted, and what is refused by the name of its file and option."""

from __future__ import annotations

import ssl
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificate, load_pem_x509_crl

from fletcher.runtime.errors import InputError
from fletcher.serve.tls.files import ServedCertificate, TlsFiles, read_certificate

from .conftest import DAY, Authority, Pair, pem


def read(folder: Path, pair: Pair, **changes: object) -> object:
    return read_certificate(replace(TlsFiles(*pair.write(folder)), **changes), time.time())  # type: ignore[arg-type]


def test_a_pair_is_served_until_its_end(tmp_path: Path, authority: Authority) -> None:
    pair = authority.server()
    served = read_certificate(TlsFiles(*pair.write(tmp_path)), time.time())
    certificate = load_pem_x509_certificate(pair.certificate)
    assert served.expires == certificate.not_valid_after_utc.timestamp()
    assert served.serial == f"{certificate.serial_number:x}"
    for context in (served.http, served.flight):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_NONE
        names = {cipher["name"] for cipher in context.get_ciphers()}
        assert names and all(name.startswith(("TLS_", "ECDHE-")) and "CBC" not in name for name in names)


def test_certificates_of_clients_are_required_or_optional(tmp_path: Path, authority: Authority) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(authority.pem)
    for rule, mode in (("required", ssl.CERT_REQUIRED), ("optional", ssl.CERT_OPTIONAL)):
        files = TlsFiles(*authority.server().write(tmp_path), authorities, rule)  # type: ignore[arg-type]
        assert read_certificate(files, time.time()).http.verify_mode == mode


def test_an_expired_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(InputError, match=r"the certificate in --tls-cert .*server.pem expired at 20\d\d-"):
        read(tmp_path, authority.server(begin=-10 * DAY, end=-DAY))


def test_a_certificate_of_the_future_points_to_the_clock(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(InputError, match=r"is valid from .* and the clock says .*: check the clock"):
        read(tmp_path, authority.server(begin=DAY))


@pytest.mark.parametrize("part", ["certificate", "key"])
@pytest.mark.parametrize("size", [0, 40, 200])
def test_a_half_written_file_is_refused_by_name(tmp_path: Path, authority: Authority, part: str, size: int) -> None:
    pair = authority.server()
    option = "--tls-cert" if part == "certificate" else "--tls-key"
    with pytest.raises(InputError, match=rf"{option} .* is not a complete .* it may be half-written"):
        read(tmp_path, replace(pair, **{part: getattr(pair, part)[:size]}))


def test_a_key_of_another_pair_is_refused_with_both_kinds(tmp_path: Path, authority: Authority) -> None:
    other = authority.server(curve=ec.SECP384R1)
    pair = replace(authority.server(), key=other.key)
    with pytest.raises(InputError, match=r"the key in --tls-key .*\(EC secp384r1\) does not belong .*\(EC secp256r1\)"):
        read(tmp_path, pair)
    with pytest.raises(InputError, match="does not belong"):
        read(tmp_path, replace(pair, key=authority.server().key))


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path, authority: Authority) -> None:
    key = pem(ec.generate_private_key(ec.SECP256R1()), b"password")
    with pytest.raises(InputError, match=r"--tls-key .* has a password"):
        read(tmp_path, replace(authority.server(), key=key))


def test_revocation_lists_are_checked(tmp_path: Path, authority: Authority) -> None:
    authorities, lists = tmp_path / "ca.pem", tmp_path / "crl.pem"
    authorities.write_bytes(authority.pem)
    other = Authority("Other CA")
    same_name = Authority()

    def served(content: bytes) -> ServedCertificate:
        lists.write_bytes(content)
        files = TlsFiles(*authority.server().write(tmp_path), authorities, client_crl=lists)
        return read_certificate(files, time.time())

    soon, late = authority.revoke(end=DAY), other.revoke(end=2 * DAY)
    end = load_pem_x509_crl(soon).next_update_utc
    assert end is not None
    for content in (soon, late + soon):
        found = served(content)
        assert found.revocations_expire == end.timestamp()
        assert found.http.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
        assert found.flight.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    for content, reason in (
        (b"", "has no revocation list"),
        (authority.pem, "has no revocation list"),
        (soon[:120], "half-written"),
        (soon + late[:120], "half-written"),
        (authority.revoke(begin=-2 * DAY, end=-DAY), "of CN=Test CA .* expired at"),
        (authority.revoke(begin=DAY, end=2 * DAY), "check the clock"),
        (same_name.revoke(), "is not signed by the CA in --tls-client-ca"),
    ):
        with pytest.raises(InputError, match=reason):
            served(content)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nMIIB", b"not a certificate"])
def test_a_broken_file_of_authorities_is_refused(tmp_path: Path, authority: Authority, content: bytes) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(content)
    with pytest.raises(InputError, match=r"--tls-client-ca .*ca.pem is not a complete file"):
        read(tmp_path, authority.server(), client_ca=authorities)


def test_a_missing_file_is_named(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(InputError, match=r"--tls-client-ca .*absent.pem cannot be read"):
        read(tmp_path, authority.server(), client_ca=tmp_path / "absent.pem")


def test_no_message_has_a_part_of_the_key(tmp_path: Path, authority: Authority) -> None:
    pair = authority.server()
    for key in (pair.key[:150], authority.server().key, pair.key.replace(b"A", b"B", 3)):
        with pytest.raises(InputError) as caught:
            read(tmp_path, replace(pair, key=key))
        for line in key.splitlines()[1:-1]:
            assert line.decode() not in str(caught.value)
