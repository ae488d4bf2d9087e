"""Checks of certificates: the pair that the server serves, its chain and names, its key's file, and the CAs of clients."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import ssl
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fletcher.runtime.errors import FletcherError

from ..access.addresses import HostPort, is_loopback
from ..listening import listening_addresses
from ..tls.files import TlsFiles, read_certificate
from .finding import Finding, advice, error, fine, warning
from .subject import Subject

__all__ = ["check_certificates"]

#: Seconds before the end of a certificate or revocation list in which it needs a successor.
SOON: Final = 14 * 86400
SOON_FOR_LISTS: Final = 6 * 3600


def check_certificates(subject: Subject) -> Iterator[Finding]:
    """Check certificate, chain, names and key of the server, and the CAs and revocation lists of clients."""
    files = subject.options.tls_files
    if files is None:
        yield fine("no TLS")
        return
    now = time.time()
    try:
        served = read_certificate(files, now)
    except FletcherError as problem:
        yield error(str(problem), "write the certificate with its chain and its own key, both complete and in PEM")
        return
    left = served.expires - now
    if left < SOON:
        yield warning(
            f"the certificate in {files.certificate} expires in {_time(left)}", "renew it and replace the files"
        )
    else:
        yield fine(f"the certificate and its key belong together, and are valid for {_time(left)}")
    if served.revocations_expire is not None and (left := served.revocations_expire - now) < SOON_FOR_LISTS:
        yield warning(
            f"a revocation list in {files.client_crl} expires in {_time(left)}, and then no client of its CA gets in",
            "replace the file with the present list of the CA, before each list ends",
        )
    from cryptography import x509

    chain = x509.load_pem_x509_certificates(files.certificate.read_bytes())
    yield from _check_chain(files, chain, now)
    yield from _check_names(subject, files, chain[0])
    yield from _check_key_file(subject, files.key)
    if files.client_ca is not None:
        yield from _check_authorities(files.client_ca, now)


def _check_chain(files: TlsFiles, chain: Sequence[Any], now: float) -> Iterator[Finding]:
    """Check that clients can follow the certificates of the file to a CA that they trust."""
    from cryptography.exceptions import InvalidSignature

    for place, certificate in enumerate(chain[1:], 2):
        if certificate.not_valid_after_utc.timestamp() < now:
            yield error(
                f"certificate {place} of {files.certificate} ({_subject(certificate)}) has expired",
                "write the present intermediate certificates of the CA into the file",
            )
    for lower, upper in itertools.pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError) as problem:
            yield error(
                f"{_subject(upper)} did not issue {_subject(lower)}, which is before it in {files.certificate}: {problem}",
                "write the server's certificate first, then each issuer after what it has issued",
            )
            return
        except InvalidSignature:
            yield error(
                f"the signature of {_subject(lower)} in {files.certificate} is not one of {_subject(upper)}",
                "write the intermediate certificates of the CA that issued this certificate",
            )
            return
    last = chain[-1]
    if last.issuer == last.subject:
        yield (
            advice(
                f"the certificate in {files.certificate} is its own CA, so each client must trust it by name",
                "use a certificate of a CA",
            )
            if len(chain) == 1
            else fine("the chain ends with a CA")
        )
    elif last.issuer in _trusted_names():
        yield fine(f"the chain ends below {last.issuer.rfc4514_string()}, which this machine trusts")
    else:
        yield advice(
            f"the chain in {files.certificate} ends below {last.issuer.rfc4514_string()}, which this machine does not trust",
            "give its certificate to the clients; if it is an intermediate CA, write it into the file, too",
        )


def _check_names(subject: Subject, files: TlsFiles, certificate: Any) -> Iterator[Finding]:
    """Compare the names in the certificate with those to which the server answers."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    extensions = {extension.oid: extension.value for extension in certificate.extensions}
    usage = extensions.get(x509.ExtendedKeyUsage.oid)
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        yield error(
            f"the certificate in {files.certificate} is not for servers (its extended key usage)",
            "ask the CA for a certificate with the usage serverAuth",
        )
    names = extensions.get(x509.SubjectAlternativeName.oid)
    if names is None:
        yield error(
            f"the certificate in {files.certificate} has no alternative name, and clients check no other",
            "ask the CA for a certificate with the names of the server as subjectAltName",
        )
        return
    hosts = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    wanted = [*subject.options.allow_host, *_listening_hosts(subject)]
    missing = [host for host in wanted if not _is_named(host, hosts, addresses)]
    if missing:
        yield warning(
            f"clients that call the server as {', '.join(missing)} refuse the certificate, which is for "
            f"{', '.join(sorted(hosts | addresses)) or 'no host'}",
            "ask the CA for a certificate with every name of --allow-host, or leave the name out there",
        )
    else:
        yield fine(f"the certificate is for {', '.join(sorted(hosts | addresses))}")


def _check_key_file(subject: Subject, path: Path) -> Iterator[Finding]:
    """Check who may read and write the key."""
    mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield error(f"other users may write the key {path}", f"chmod 600 {path}")
    elif (
        mode & stat.S_IROTH and not subject.in_container
    ):  # Kubernetes mounts secrets that all in the container may read
        yield warning(f"every user of the machine may read the key {path}", f"chmod 600 {path}, or 640 for a group")
    else:
        yield fine(f"only its owner may change {path}")


def _check_authorities(path: Path, now: float) -> Iterator[Finding]:
    """Check the CAs of clients, which `read_certificate` has read."""
    from cryptography import x509

    authorities = x509.load_pem_x509_certificates(path.read_bytes())
    soon = [one for one in authorities if one.not_valid_after_utc.timestamp() - now < SOON]
    no_ca = [one for one in authorities if not _is_authority(one)]
    if soon:
        yield warning(
            f"CAs of clients in {path} expire within {SOON // 86400} days: {'; '.join(map(_subject, soon))}",
            "add the next certificate of the CA to the file",
        )
    if no_ca:
        yield warning(
            f"certificates in {path} are not of CAs: {'; '.join(map(_subject, no_ca))}",
            "name the CA that issues the certificates of clients",
        )
    if not soon and not no_ca:
        yield fine(f"{len(authorities)} CAs of clients")


def _is_authority(certificate: Any) -> bool:
    from cryptography import x509

    constraints = (each.value for each in certificate.extensions if each.oid == x509.BasicConstraints.oid)
    return any(each.ca for each in constraints)


def _listening_hosts(subject: Subject) -> list[str]:
    """Return the addresses of the server that clients use as they stand in its options."""
    try:
        listening = listening_addresses(subject.options)
    except FletcherError:
        return []  # check_addresses reports it
    hosts = {each.host for each in (listening.http, listening.flight, listening.admin) if isinstance(each, HostPort)}
    return sorted(host for host in hosts if not is_loopback(host) and not _is_every_address(host))


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _is_named(host: str, names: set[str], addresses: set[str]) -> bool:
    """Return whether a certificate is for a host (RFC 6125: an asterisk stands for one whole label)."""
    host = host.lower().strip("[]")
    try:
        return str(ipaddress.ip_address(host)) in addresses
    except ValueError:
        return host in names or f"*.{host.partition('.')[2]}" in names


def _trusted_names() -> set[Any]:
    """Return the subjects of the CAs that this machine trusts, as far as they are in one file."""
    from cryptography import x509

    context = ssl.create_default_context()
    return {x509.load_der_x509_certificate(each).subject for each in context.get_ca_certs(binary_form=True)}


def _subject(certificate: Any) -> str:
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"


def _time(seconds: float) -> str:
    """Return a time such as `3 days` or `5 hours`."""
    left = datetime.timedelta(seconds=max(seconds, 0))
    return f"{left.days} days" if left.days else f"{left.seconds // 3600} hours"
