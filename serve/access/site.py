"""`SiteGuard`: protection against web pages that users of a server without keys, or with certificates of clients, visit.

A page can send requests to the loopback (cross-site request forgery), and can let a name of its own point there (DNS
rebinding). So without keys the server answers only to its own names, and no page of another site changes anything. A browser
also sends the certificate of its user with the requests of any page.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from ..errors import ForbiddenError

__all__ = ["SiteGuard"]

#: Methods that change nothing (RFC 9110, section 9.2.1).
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

#: Values of `Sec-Fetch-Site` (https://www.w3.org/TR/fetch-metadata/) of requests that another site's page caused.
OTHER_SITES: Final = frozenset({b"cross-site", b"same-site"})

ANY_ORIGIN: Final = "*"


class SiteGuard:
    """Check of the headers `Host`, `Origin` and `Sec-Fetch-Site`. Safe to use from any thread."""

    def __init__(self, hosts: Sequence[str] | None, origins: Sequence[str] = ()) -> None:
        """Make the check.

        Args:
            hosts: names and addresses without a port to which the server answers, besides those of the loopback; None for
                every name.
            origins: origins whose pages may send requests, or `*` for all.
        """
        self._hosts = None if hosts is None else frozenset(host.lower().strip("[]") for host in hosts)
        self._origins = frozenset(origin.lower().encode("ascii") for origin in origins)
        self._every_origin = ANY_ORIGIN in origins
        self._knows = lru_cache(256)(self._find)

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Check a request.

        Args:
            method: its method.
            headers: its headers by name in lower case.

        Raises:
            ForbiddenError: it is for another name, or a page of another site sent it.
        """
        host = headers.get(b"host", b"")
        if self._hosts is not None and not self._knows(host):
            raise ForbiddenError(
                f"this server does not answer to the name {host[:256].decode('latin-1')!r}: it answers to localhost and to "
                "--allow-host NAME"
            )
        if method in SAFE or self._every_origin:
            return
        origin = headers.get(b"origin")
        if origin is None:
            foreign = headers.get(b"sec-fetch-site") in OTHER_SITES
        else:
            origin = origin.lower()
            foreign = origin not in self._origins and origin.partition(b"://")[2] != host.lower()
        if foreign:
            raise ForbiddenError(
                "a page of another website may not send this request: --cors-allow-origin ORIGIN lets it"
            )

    def _find(self, value: bytes) -> bool:
        """Return whether a `Host` is a name of this server. Its port does not matter."""
        text = value.decode("latin-1").lower()
        if text.startswith("["):
            host, end, rest = text[1:].partition("]")
            if not end or (rest and not rest.startswith(":")):
                return False
        else:
            host = text.rpartition(":")[0] if ":" in text else text
        if host == "localhost" or host in (self._hosts or ()):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False
