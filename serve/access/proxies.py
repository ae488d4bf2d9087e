"""`TrustedProxies`: the address of a client behind reverse proxies, from headers of proxies that the operator trusts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from fletcher.runtime.errors import InputError

__all__ = ["FORWARDED", "FORWARDING_MARKS", "X_FORWARDED_FOR", "TrustedProxies"]

#: Headers with the addresses of a request's client and of the proxies before the last one.
X_FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED: Final = b"forwarded"  # RFC 7239

#: Headers of requests that a proxy has passed on.
FORWARDING_MARKS: Final = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-server",
        b"x-real-ip",
        b"cf-connecting-ip",
        b"true-client-ip",
    }
)

#: Word for proxies that connect over the server's Unix socket, which have no address.
UNIX: Final = "unix"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Networks of trusted proxies. Safe to use from any thread."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Read the networks.

        Args:
            networks: networks such as `10.0.0.0/8`, addresses, or `unix`.

        Raises:
            InputError: one is none of these.
        """
        self._unix = UNIX in networks
        self._networks = [_network(text) for text in networks if text != UNIX]
        self._trusts = lru_cache(1024)(self._find)

    def trusts(self, host: str | None) -> bool:
        """Return whether an address belongs to a trusted proxy.

        Args:
            host: address of the other end of a connection; None or empty for the Unix socket.
        """
        return self._trusts(host) if host else self._unix

    def client(self, peer: str | None, x_forwarded_for: Sequence[bytes], forwarded: Sequence[bytes]) -> str | None:
        """Return the address of a request's client: the nearest address that is not that of a trusted proxy.

        Addresses that the client itself has written into a header are farther away, so they are not read. If the two headers
        disagree, the proxies write only one of them, and the peer is returned.

        Args:
            peer: address of the other end of the connection; None for the Unix socket.
            x_forwarded_for, forwarded: values of the headers, in the order of their lines.
        """
        if not self.trusts(peer):
            return peer
        found = {
            self._nearest(peer, hops)
            for hops in (_hops(x_forwarded_for), [_parameter(hop) for hop in _hops(forwarded)])
            if hops
        }
        return found.pop() if len(found) == 1 else peer

    def _nearest(self, peer: str | None, hops: list[str]) -> str | None:
        client = peer
        while hops and self.trusts(client):
            address = _address(hops.pop())
            if address is None:  # `unknown`, a name that hides an address, or nonsense
                break
            client = address
        return client

    def _find(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InputError(
            f"{text!r} is not a network: use one such as 10.0.0.0/8 or fd00::/8, an address, or {UNIX}"
        ) from None


def _hops(values: Iterable[bytes]) -> list[str]:
    """Return the elements of a header that is a list, the nearest last."""
    joined = b",".join(values).decode("latin-1")
    return [element.strip() for element in joined.split(",") if element.strip()]


def _parameter(element: str) -> str:
    """Return the value of the parameter `for` of an element of `Forwarded`; empty without one."""
    for parameter in element.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "for":
            return value.strip().strip('"')
    return ""


def _address(text: str) -> str | None:
    """Return the address of `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`; None for other text."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "%" in text:  # a zone, which is meaningful on one machine only
        return None
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
