"""Fixtures: a CA, certificates and keys in files."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)

Curve = ec.SECP256R1


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Pair:
    """A certificate and its key in PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, stem: str = "server") -> tuple[Path, Path]:
        folder.mkdir(exist_ok=True)
        certificate, key = folder / f"{stem}.pem", folder / f"{stem}.key"
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key)
        return certificate, key


def pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


class Authority:
    """A CA that issues certificates."""

    def __init__(self, common_name: str = "Test CA") -> None:
        self._key = ec.generate_private_key(Curve())
        self.subject = name(common_name)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        common_name: str = "localhost",
        names: tuple[x509.GeneralName, ...] = (),
        *,
        begin: datetime.timedelta = -DAY,
        end: datetime.timedelta = 10 * DAY,
        curve: type[ec.EllipticCurve] = Curve,
        client: bool = False,
    ) -> Pair:
        key = ec.generate_private_key(curve())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(common_name))
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + begin)
            .not_valid_after(NOW + end)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Pair(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), pem(key))

    def revoke(self, *pairs: Pair, begin: datetime.timedelta = -DAY, end: datetime.timedelta = DAY) -> bytes:
        """Return a revocation list with certificates, in PEM."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.subject)
            .last_update(NOW + begin)
            .next_update(NOW + end)
        )
        for pair in pairs:
            serial = x509.load_pem_x509_certificate(pair.certificate).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def server(self, **changes: object) -> Pair:
        import ipaddress

        names = (
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        )
        return self.issue(names=names, **changes)  # type: ignore[arg-type]

    def trust(self, client: Pair | None = None, folder: Path | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts this CA, and has a certificate."""
        context = ssl.create_default_context(cadata=self.pem.decode())
        if client is not None:
            assert folder is not None
            context.load_cert_chain(*client.write(folder, f"client-{id(client)}"))
        return context


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    yield Authority()
