"""`Gate`: decides who may ask for what. HTTP and Flight share it.

Callers send API keys as bearer tokens. Without keys only the loopback has the admin API. Other decisions about a caller, such
as signed tokens beside keys, belong here too.
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
    """Lets callers in or refuses them. Safe to use from any thread."""

    def __init__(self, keys: Keys | None) -> None:
        """Guard a server with keys.

        Args:
            keys: the server's keys; None lets every caller in, and to the admin API every caller from the loopback.
        """
        self.keys = keys

    def enter(self, access: Access, authorization: str | None, *, peer: str | None, browser: bool = False) -> str:
        """Check a caller.

        Args:
            access: level of access that the caller needs.
            authorization: value of the header `authorization`, or None.
            peer: address of the caller, or None if it is not known.
            browser: whether a website's page sent the request.

        Returns:
            The name of the caller's key; empty if no key is needed.

        Raises:
            UnauthorizedError: a key is needed, and there is none, or a wrong one.
            ForbiddenError: the key lacks the admin role; without keys, the caller is not on the loopback.
        """
        if access == "open":
            return ""
        if self.keys is None:
            # Without keys, a website that the operator visits could reach the loopback through the browser.
            if access == "admin" and (browser or not is_loopback(peer)):
                raise ForbiddenError(
                    "without API keys the admin API answers to the loopback alone: give the server keys"
                )
            return ""
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            raise UnauthorizedError("this server needs an API key: send the header `Authorization: Bearer KEY`")
        key = self.keys.find(authorization[len(BEARER) :].strip())
        if key is None:
            raise UnauthorizedError("the API key is not one of this server's")
        if access == "admin" and key.role != "admin":
            raise ForbiddenError("this API key is not an admin's: make one with `fletcher-serve keys add NAME --admin`")
        return key.name


def is_loopback(host: str | None) -> bool:
    """Return whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_binding(address: HostPort, option: str, *, keys: bool, allow_anonymous: bool) -> None:
    """Refuse an address that other machines can reach, unless the server has keys or anonymous callers are allowed.

    Args:
        address: address to listen on.
        option: the option that named it, for the error.
        keys: whether the server has keys.
        allow_anonymous: whether callers without a key are allowed.

    Raises:
        InputError: other machines could reach the server, and it has no keys.
    """
    if keys or allow_anonymous or is_loopback(address.host):
        return
    raise InputError(
        f"{option} {address} can be reached from other machines, and this server has no API keys: give it some with "
        "--keys FILE (`fletcher-serve keys add` makes them), or say --allow-anonymous"
    )
