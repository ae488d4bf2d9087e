"""`Gate`: checks the access of callers. HTTP and Flight share it.

Callers send API keys as bearer tokens. Without keys, only callers on the loopback may use the admin API. Other checks of a
caller, such as signed tokens in addition to keys, belong here too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from fletcher.runtime.errors import InputError

from ..errors import ForbiddenError, UnauthorizedError
from .addresses import HostPort
from .grant import NOBODY, Grant
from .key import Role
from .keys import Keys
from .levels import Access
from .limits.ledger import Ledger, TableLedger
from .limits.plan import Plan
from .limits.quota import Quota
from .permit import Permit
from .site import SiteGuard

__all__ = ["Gate", "check_binding", "is_loopback"]

BEARER = "bearer "

#: Roles that each level of access accepts.
ROLES: Final[Mapping[Access, tuple[Role, ...]]] = MappingProxyType(
    {
        "call": ("user", "monitor", "admin"),
        "key": ("user", "admin"),
        "metrics": ("monitor", "admin"),
        "admin": ("admin",),
    }
)


class Gate:
    """Access check of callers. Safe to use from any thread.

    Attributes:
        keys: keys of the server, or None.
        busy: True if callers of ordinary routes are checked: the server has keys or limits.
        site: check of requests that web pages may have sent, or None.
    """

    def __init__(
        self,
        keys: Keys | None,
        limits: Quota | None = None,
        ledger: Ledger | None = None,
        site: SiteGuard | None = None,
        *,
        salts: bool = False,
    ) -> None:
        """Make the access check of a server.

        Args:
            keys: keys of the server. None allows all callers, and for the admin API all callers on the loopback.
            limits: limits of each client whose key has none of its own, and of each address without keys.
            ledger: counts the use of limits. Default: a table in this process.
            site: check of requests that web pages may have sent. Default: none.
            salts: True if no client shares a cache with others; a key can also ask for this.
        """
        self.keys = keys
        plan = None if limits is None or limits.empty else Plan.of(limits)
        self._anonymous = NOBODY if plan is None else Grant("", None, plan)
        self._plan = plan
        self._ledger = TableLedger() if ledger is None else ledger
        self._grants: dict[str, Grant] = {}
        self.site = site
        self._salts = salts
        self.busy = keys is not None or plan is not None or salts

    def enter(
        self,
        access: Access,
        authorization: str | None,
        *,
        peer: str | None,
        indirect: bool = False,
        route: str | None = None,
    ) -> Grant:
        """Check a caller.

        Args:
            access: level of access that the route or call needs.
            authorization: value of the header `authorization`, or None.
            peer: address of the caller, or None if it is unknown.
            indirect: True if a page of a website or a proxy sent the request.
            route: path of the route, or `flight:CALL`; None if it was checked already.

        Returns:
            The rights of the caller.

        Raises:
            UnauthorizedError: the caller needs a key, and has none or a wrong one.
            ForbiddenError: the key does not have the role or the route; without keys, the caller is not on the loopback.
        """
        if access == "open":
            return NOBODY
        if self.keys is None:
            # A website that the operator visits could send requests to the loopback through the browser, and a proxy on this
            # machine sends those of anybody.
            if access == "admin" and (indirect or not is_loopback(peer)):
                raise ForbiddenError(
                    "without API keys, only programs on the loopback may use the admin API: start the server with --keys FILE"
                )
            return self._anonymous
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            raise UnauthorizedError(
                "this server needs an API key: send the header `Authorization: Bearer KEY` (or `api-key: KEY`)"
            )
        key = self.keys.find(authorization[len(BEARER) :].strip())
        if key is None:
            raise UnauthorizedError("this server does not have this API key, or the key has expired")
        if key.role not in ROLES[access]:
            role = ROLES[access][0]
            option = "" if role == "user" else f" --{role}"
            raise ForbiddenError(
                f"this API key has the role {key.role}, and not {role}: make one with `fletcher-serve keys add NAME{option}`",
                key.name,
            )
        if route is not None and key.routes is not None and not key.allows_route(route):
            raise ForbiddenError(f"this API key is not for {route}: it is for {', '.join(key.routes)}", key.name)
        grant = self._grants.get(key.sha256)
        if grant is None or grant.key is not key:  # the file was read again
            plan = self._plan if key.limits is None else None if key.limits.empty else Plan.of(key.limits)
            grant = self._grants[key.sha256] = Grant(key.name, key, plan)
        return grant

    def permit(self, grant: Grant, peer: str | None) -> Permit | None:
        """Return the permit of a request; None if the caller has no limits.

        Args:
            grant: rights of the caller.
            peer: address of the caller, which is its name if it has no key.
        """
        if not grant.limited:
            return None
        return Permit(self._ledger, grant.ledger_name or _network_of(peer), grant)

    def salt_of(self, grant: Grant, client: str) -> str:
        """Return the salt of a request in the caches; empty if it shares them with others.

        Args:
            grant: rights of the caller.
            client: name of the client.
        """
        return client if self._salts or (grant.key is not None and grant.key.salt) else ""

    def close(self) -> None:
        """Write what is to be kept."""
        if self.keys is not None:
            self.keys.close()


@lru_cache(4096)
def _network_of(peer: str | None) -> str:
    """Return the name of an address in the ledger: an IPv6 network of 64 bits, which one client has, or the address."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return f"address {peer or 'unknown'}"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return f"network {ipaddress.ip_network((int(address) >> 64 << 64, 64))}"
    return f"address {address}"


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
