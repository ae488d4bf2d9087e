"""`client_name`: the name in a client's certificate, which is the client's identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["EXTENSION", "client_name"]

#: Key of ASGI's `extensions` with the name in the client's certificate. Only this server's own protocol sets it.
EXTENSION: Final = "fletcher.client_certificate"

#: Kinds of alternative names in the order of their choice. A URI is an identity of SPIFFE.
KINDS: Final = ("URI", "DNS", "email")

#: Longest name, in characters.
LONGEST: Final = 256


def client_name(certificate: Mapping[str, Any] | None) -> str | None:
    """Return the name of a client: the first URI of the alternative names, else the first DNS name, else the first e-mail
    address, else the common name of the subject.

    Args:
        certificate: the verified certificate as `SSLSocket.getpeercert` returns it; None or empty without one.

    Returns:
        The name; None without a certificate, or if the certificate has no name of printable characters.
    """
    if not certificate:
        return None
    names = certificate.get("subjectAltName", ())
    found = next((value for kind in KINDS for name, value in names if name == kind), None)
    if found is None:
        parts = [part for group in certificate.get("subject", ()) for part in group]
        found = next((value for name, value in parts if name == "commonName"), None)
    usable = found is not None and found.isascii() and found.isprintable() and 0 < len(found) <= LONGEST
    return found if usable else None
