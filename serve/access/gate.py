"""`Gate`: checks the access of callers. HTTP and Flight share it.

Callers send API keys as bearer tokens. Without keys, only callers on the loopback may use the admin API. Other checks of a
caller, such as signed tokens in addition to keys, belong here too.
"""

from __future__ import annotations

import ipaddress

from fletcher.runtime.errors import InputError

from ..errors import ForbiddenError, UnauthorizedError
from .addresses import HostPort
from .keys import Keys
from .levels import Access

__all__ = ["Gate", "check_binding", "is_loopback"]

BEARER = "bearer "


class Gate:
    """Access check of callers. Safe to use from any thread."""

    def __init__(self, keys: Keys | None) -> None:
        """Make the access check of a server.

        Args:
            keys: keys of the server. None allows all callers, and for the admin API all callers on the loopback.
        """
        self.keys = keys

    def enter(self, access: Access, authorization: str | None, *, peer: str | None, indirect: bool = False) -> str:
        """Check a caller.

        Args:
            access: level of access that the route or call needs.
            authorization: value of the header `authorization`, or None.
            peer: address of the caller, or None if it is unknown.
            indirect: True if a page of a website or a proxy sent the request.

        Returns:
            The name of the caller's key; empty if the caller does not need a key.

        Raises:
            UnauthorizedError: the caller needs a key, and has none or a wrong one.
            ForbiddenError: the key does not have the admin role; without keys, the caller is not on the loopback.
        """
        if access == "open":
            return ""
        if self.keys is None:
            # A website that the operator visits could send requests to the loopback through the browser, and a proxy on this
            # machine sends those of anybody.
            if access == "admin" and (indirect or not is_loopback(peer)):
                raise ForbiddenError(
                    "without API keys, only programs on the loopback may use the admin API: start the server with --keys FILE"
                )
            return ""
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            raise UnauthorizedError(
                "this server needs an API key: send the header `Authorization: Bearer KEY` (or `api-key: KEY`)"
            )
        key = self.keys.find(authorization[len(BEARER) :].strip())
        if key is None:
            raise UnauthorizedError("this server does not have this API key")
        if access == "admin" and key.role != "admin":
            raise ForbiddenError(
                "this API key does not have the admin role: make one with `fletcher-serve keys add NAME --admin`"
            )
        return key.name


def is_loopback(host: str | None) -> bool:
    """Return True if an address is a loopback address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_binding(address: HostPort, option: str, *, keys: bool, allow_anonymous: bool) -> None:
    """Reject an address that other machines can reach, unless the server has keys or allows anonymous callers.

    Args:
        address: address to listen on.
        option: name of the option that has the address, for the error.
        keys: True if the server has keys.
        allow_anonymous: True if callers do not need a key.

    Raises:
        InputError: other machines can reach the address, and the server has no keys.
    """
    if keys or allow_anonymous or is_loopback(address.host):
        return
    raise InputError(
        f"other machines can reach {option} {address}, and this server has no API keys: use --keys FILE "
        "(`fletcher-serve keys add` makes keys), or --allow-anonymous"
    )
