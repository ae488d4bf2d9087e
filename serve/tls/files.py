"""`read_certificate`: the certificate, the key and the client CAs in files, checked before anything is served with them."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from fletcher.runtime.errors import InputError, MissingPackageError
from fletcher.runtime.os_errors import explain

__all__ = ["ClientCertificates", "ServedCertificate", "TlsFiles", "read_certificate"]

#: Rule for certificates of clients: `required` of every client, or `optional` beside keys.
ClientCertificates = Literal["required", "optional"]

#: Cipher suites of TLS 1.2: ephemeral keys and authenticated encryption. Those of TLS 1.3 are all of this kind.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

#: Protocols that are agreed on in the handshake (ALPN).
HTTP_PROTOCOLS: Final = ("http/1.1",)
FLIGHT_PROTOCOLS: Final = ("h2",)

#: First line of a revocation list.
CRL_BEGIN: Final = b"-----BEGIN X509 CRL-----"

#: Reads of the files before a change under way is an error. Each read that finds a change begins again.
READS: Final = 3


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files of a server's certificate.

    Attributes:
        certificate: certificate with its chain, in PEM.
        key: private key of the certificate, in PEM and without a password.
        client_ca: CAs whose clients are accepted, in PEM; None if clients have no certificates.
        clients: rule for certificates of clients.
        client_crl: revocation lists of the CAs that issue certificates of clients, in PEM; None if revocation is not checked.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    clients: ClientCertificates = "required"
    client_crl: Path | None = None

    @property
    def options(self) -> dict[str, Path]:
        """The files by the options that name them."""
        every = {
            "--tls-cert": self.certificate,
            "--tls-key": self.key,
            "--tls-client-ca": self.client_ca,
            "--tls-client-crl": self.client_crl,
        }
        return {option: path for option, path in every.items() if path is not None}


@dataclass(frozen=True, slots=True)
class ServedCertificate:
    """A certificate that was checked.

    Attributes:
        http: context of new HTTP connections.
        flight: context of new Flight connections.
        expires: end of the certificate, in seconds since 1970.
        revocations_expire: end of the revocation list that ends first, in seconds since 1970; None without lists.
        serial: serial number of the certificate, hexadecimal.
        clients: True if clients can have certificates.
    """

    http: ssl.SSLContext
    flight: ssl.SSLContext
    expires: float
    revocations_expire: float | None
    serial: str
    clients: bool


def read_certificate(files: TlsFiles, now: float) -> ServedCertificate:
    """Read and check the files.

    Args:
        files: the files.
        now: the time, in seconds since 1970.

    Raises:
        InputError: a file cannot be read or is incomplete, the key does not belong to the certificate, or a certificate is
            not valid at this time. The error names the file.
        MissingPackageError: the package `cryptography` is not installed.
    """
    for _ in range(READS):
        contents = _read(files)
        certificate = _check_pair(files, contents, now)
        authorities = contents.get("--tls-client-ca")
        known = [] if authorities is None else _check_authorities(files, authorities, now)
        revoked = contents.get("--tls-client-crl")
        revocations_expire = None if revoked is None else _check_revocations(files, revoked, known, now)
        contexts = [_context(files, authorities, protocols) for protocols in (HTTP_PROTOCOLS, FLIGHT_PROTOCOLS)]
        if _read(files) == contents:  # the context has read the files itself
            return ServedCertificate(
                contexts[0],
                contexts[1],
                certificate.not_valid_after_utc.timestamp(),
                revocations_expire,
                f"{certificate.serial_number:x}",
                authorities is not None,
            )
    raise InputError(f"--tls-cert {files.certificate} and --tls-key {files.key} change while they are read")


def _read(files: TlsFiles) -> dict[str, bytes]:
    contents = {}
    for option, path in files.options.items():
        try:
            contents[option] = path.read_bytes()
        except OSError as error:
            raise InputError(f"{option} {path} cannot be read: {explain(error)}") from error
    return contents


def _check_pair(files: TlsFiles, contents: dict[str, bytes], now: float) -> Any:
    """Return the certificate, an `x509.Certificate`."""
    x509, serialization = _cryptography()
    try:
        certificate = x509.load_pem_x509_certificates(contents["--tls-cert"])[0]
    except ValueError:
        raise InputError(
            f"--tls-cert {files.certificate} is not a complete certificate in PEM: it may be half-written"
        ) from None
    try:
        key = serialization.load_pem_private_key(contents["--tls-key"], None)
    except TypeError:
        raise InputError(
            f"--tls-key {files.key} has a password: write the key without one, in a file that only the server can read"
        ) from None
    except ValueError:
        raise InputError(
            f"--tls-key {files.key} is not a complete private key in PEM: it may be half-written"
        ) from None
    except Exception as error:  # `UnsupportedAlgorithm`, whose module is not imported without the package
        raise InputError(f"--tls-key {files.key} has a key that cannot be used: {error}") from error
    if certificate.public_key() != key.public_key():
        raise InputError(
            f"the key in --tls-key {files.key} ({_kind(key)}) does not belong to the certificate in --tls-cert "
            f"{files.certificate} ({_kind(certificate.public_key())}): one of them may be from another pair"
        )
    _check_time(f"--tls-cert {files.certificate}", certificate, now)
    return certificate


def _check_authorities(files: TlsFiles, content: bytes, now: float) -> list[Any]:
    """Return the CAs of clients, each an `x509.Certificate`."""
    x509, _ = _cryptography()
    try:
        authorities: list[Any] = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise InputError(
            f"--tls-client-ca {files.client_ca} is not a complete file of certificates in PEM: it may be half-written"
        ) from None
    for authority in authorities:
        _check_time(f"--tls-client-ca {files.client_ca} ({authority.subject.rfc4514_string()})", authority, now)
    return authorities


def _check_revocations(files: TlsFiles, content: bytes, authorities: list[Any], now: float) -> float:
    """Return the end of the revocation list that ends first.

    OpenSSL refuses every certificate of a CA whose list has expired or has a wrong signature, so such a list is an error.
    """
    x509, _ = _cryptography()
    name = f"--tls-client-crl {files.client_crl}"
    lists, ends = content.split(CRL_BEGIN)[1:], []
    if not lists:
        raise InputError(f"{name} has no revocation list in PEM: it may be half-written")
    for part in lists:
        try:
            revoked = x509.load_pem_x509_crl(CRL_BEGIN + part)
        except ValueError:
            raise InputError(
                f"{name} is not a complete file of revocation lists in PEM: it may be half-written"
            ) from None
        issuer = revoked.issuer.rfc4514_string()
        signers = [authority for authority in authorities if authority.subject == revoked.issuer]
        if signers and not any(revoked.is_signature_valid(authority.public_key()) for authority in signers):
            raise InputError(f"the revocation list of {issuer} in {name} is not signed by the CA in --tls-client-ca")
        begin, end = revoked.last_update_utc, revoked.next_update_utc
        if now < begin.timestamp():
            raise InputError(f"the revocation list of {issuer} in {name} is valid from {_time(begin)}: check the clock")
        if end is not None and now >= end.timestamp():
            raise InputError(f"the revocation list of {issuer} in {name} expired at {_time(end)}")
        ends.append(math.inf if end is None else end.timestamp())
    return min(ends)


def _check_time(name: str, certificate: Any, now: float) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end.timestamp():
        raise InputError(f"the certificate in {name} expired at {_time(end)}")
    if now < begin.timestamp():
        present = datetime.fromtimestamp(now, UTC)
        raise InputError(
            f"the certificate in {name} is valid from {_time(begin)}, and the clock says {_time(present)}: check the clock"
        )


def _context(files: TlsFiles, authorities: bytes | None, protocols: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(list(protocols))
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    try:
        # A password is never asked for: OpenSSL would read it from the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
        if authorities is not None:
            context.load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
            context.verify_mode = ssl.CERT_REQUIRED if files.clients == "required" else ssl.CERT_OPTIONAL
        if files.client_crl is not None:
            context.load_verify_locations(cafile=files.client_crl)  # `cadata` takes no revocation lists
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        named = " and ".join(f"{option} {path}" for option, path in files.options.items())
        raise InputError(f"OpenSSL refuses {named}: {reason}") from error
    return context


def _kind(key: Any) -> str:
    """Return the kind of a key for a message, such as `EC secp256r1` or `RSA 2048`."""
    name = type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey").removeprefix("_")
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve is not None:
        return f"EC {curve}"
    size = getattr(key, "key_size", None)
    return f"{name} {size}" if size else name


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise MissingPackageError("cryptography", "tls", "--tls-cert") from error
    return x509, serialization
