"""Who may ask what: API keys as bearer tokens, the same for both doors; the loopback alone where there are none.

Whatever else decides about a caller belongs here: signed tokens (JWT) beside keys, rate limits by a key's name, and the
audit of what was allowed.
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
    """Lets callers in. Safe to use from any thread."""

    def __init__(self, keys: Keys | None) -> None:
        """
        Args:
            keys: the server's; None lets everybody in who reaches it, and admins from the loopback.
        """
        self.keys = keys

    def enter(self, access: Access, authorization: str | None, *, peer: str | None, browser: bool = False) -> str:
        """Checks a caller.

        Args:
            access: what it wants.
            authorization: the header's value.
            peer: its address, where that is known.
            browser: whether a page of some website sent the request.

        Returns:
            The name of its key; empty where none is needed.

        Raises:
            UnauthorizedError: a key is needed, and there is none or a wrong one.
            ForbiddenError: its key is no admin's, or it is no admin without keys.
        """
        if access == "open":
            return ""
        if self.keys is None:
            # Without keys, a website that the operator looks at could reach the loopback through the browser.
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
            raise ForbiddenError("this API key is no admin's: make one with `fletcher-serve keys add NAME --admin`")
        return key.name


def is_loopback(host: str | None) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_binding(address: HostPort, option: str, *, keys: bool, allow_anonymous: bool) -> None:
    """Refuses to let the network in unasked.

    Raises:
        InputError: other machines could reach the server, and it has no keys.
    """
    if keys or allow_anonymous or is_loopback(address.host):
        return
    raise InputError(
        f"{option} {address} can be reached from other machines, and this server has no API keys: give it some with "
        "--keys FILE (`fletcher-serve keys add` makes them), or say --allow-anonymous"
    )
