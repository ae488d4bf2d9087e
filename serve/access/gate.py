"""`Gate`: checks the access of callers. HTTP and Flight share it.

Callers send API keys or signed tokens (JWT) as bearer tokens, or have a certificate. A server that has none of these lets
everybody in, and only callers on the loopback may use its admin API.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from fletcher.runtime.errors import InputError

from ..errors import ForbiddenError, UnauthorizedError
from .addresses import HostPort, is_loopback
from .grant import NOBODY, Grant
from .key import Key, Role
from .keys import Keys
from .levels import Access
from .limits.ledger import Ledger, TableLedger
from .limits.plan import Plan
from .limits.quota import Quota
from .permit import Permit
from .room import FEW, make_room
from .site import SiteGuard
from .tokens.tokens import Tokens, is_signed

__all__ = ["Gate", "check_binding"]

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
        tokens: check of signed tokens, or None.
        certificates: True if the certificate of a caller is its identity.
        identifies: True if callers must say who they are: the server has keys, signed tokens or clients with certificates.
        busy: True if callers of ordinary routes are checked: it identifies them, or has limits.
        site: check of requests that web pages may have sent, or None.
        check: raises an error while every caller is refused, for example because the audit log cannot be written; or None.
    """

    def __init__(
        self,
        keys: Keys | None,
        limits: Quota | None = None,
        ledger: Ledger | None = None,
        site: SiteGuard | None = None,
        *,
        salts: bool = False,
        tokens: Tokens | None = None,
        certificates: bool = False,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Make the access check of a server.

        Args:
            keys: keys of the server, or None. A server without keys, tokens and certificates allows all callers, and for the
                admin API all callers on the loopback.
            limits: limits of each client whose key has none of its own, and of each address without keys.
            ledger: counts the use of limits. Default: a table in this process.
            site: check of requests that web pages may have sent. Default: none.
            salts: True if no client shares a cache with others; a key can also ask for this.
            tokens: check of signed tokens. Default: none are accepted.
            certificates: True if clients can have certificates. With keys, the file of keys names those that may call;
                without keys, each of them is a user.
            check: raises an error while every caller is refused. Default: there is no such time.
        """
        self.keys = keys
        self.check = check
        self.tokens = tokens
        self.certificates = certificates
        self.identifies = keys is not None or tokens is not None or certificates
        plan = None if limits is None or limits.empty else Plan.of(limits)
        self._anonymous = NOBODY if plan is None else Grant("", None, plan)
        self._plan = plan
        self._ledger = TableLedger() if ledger is None else ledger
        self._grants: dict[str, Grant] = {}
        self._room = FEW
        self.site = site
        self._salts = salts
        self.busy = self.identifies or plan is not None or salts

    def enter(
        self,
        access: Access,
        authorization: str | None,
        *,
        peer: str | None,
        indirect: bool = False,
        route: str | None = None,
        certificate: str | None = None,
    ) -> Grant:
        """Check a caller.

        Args:
            access: level of access that the route or call needs.
            authorization: value of the header `authorization`, or None.
            peer: address of the caller, or None if it is unknown.
            indirect: True if a page of a website or a proxy sent the request.
            route: path of the route, or `flight:CALL`; None if it was checked already.
            certificate: name in the certificate of the caller, or None.

        Returns:
            The rights of the caller.

        Raises:
            UnauthorizedError: the caller must say who it is, and does not or says something wrong.
            ForbiddenError: the caller does not have the role or the route; on a server without identities, the caller is
                not on the loopback.
            KeysPendingError: the token names a key that the server is fetching.
        """
        if access == "open":
            return NOBODY
        if not self.identifies:
            # A website that the operator visits could send requests to the loopback through the browser, and a proxy on this
            # machine sends those of anybody.
            if access == "admin" and (indirect or not is_loopback(peer)):
                raise ForbiddenError(
                    "without API keys, only programs on the loopback may use the admin API: start the server with --keys FILE"
                )
            return self._anonymous
        key = self._identify(authorization, certificate)
        if key.role not in ROLES[access]:
            role = ROLES[access][0]
            option = "" if role == "user" else f" --{role}"
            raise ForbiddenError(
                f"this API key has the role {key.role}, and not {role}: make one with `fletcher-serve keys add NAME{option}`",
                key.name,
            )
        if route is not None and key.routes is not None and not key.allows_route(route):
            raise ForbiddenError(f"this API key is not for {route}: it is for {', '.join(key.routes)}", key.name)
        known = key.sha256 or key.name
        grant = self._grants.get(known)
        if grant is None or grant.key is not key:  # the file was read again
            plan = self._plan if key.limits is None else None if key.limits.empty else Plan.of(key.limits)
            if len(self._grants) >= self._room:
                self._room = make_room(self._grants, lambda known: math.inf if known.key is None else known.key.end)
            grant = self._grants[known] = Grant(key.name, key, plan)
        return grant

    def _identify(self, authorization: str | None, certificate: str | None) -> Key:
        """Return the rights of a caller. A bearer token is more than a certificate.

        Raises:
            UnauthorizedError, KeysPendingError: as for `enter`.
        """
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            if certificate is None:
                raise UnauthorizedError(self._wanted)
            key = _user(certificate) if self.keys is None else self.keys.find_certificate(certificate)
            if key is None:
                raise UnauthorizedError("the file of API keys does not name this client's certificate")
            return key
        token = authorization[len(BEARER) :].strip()
        if self.tokens is not None and is_signed(token):
            return self.tokens.find(token)
        key = None if self.keys is None else self.keys.find(token)
        if key is None:
            raise UnauthorizedError("this server does not have this API key, or the key has expired")
        return key

    @property
    def _wanted(self) -> str:
        """Message for a caller that does not say who it is."""
        if self.keys is not None:
            return "this server needs an API key: send the header `Authorization: Bearer KEY` (or `api-key: KEY`)"
        if self.tokens is not None:
            return "this server needs a signed token (JWT): send the header `Authorization: Bearer TOKEN`"
        return "this server needs a certificate of its clients: connect with one of the CA that it trusts"

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
        if self.tokens is not None:
            self.tokens.close()


@lru_cache(4096)
def _user(certificate: str) -> Key:
    """Return the rights of a client with a certificate on a server without keys."""
    return Key(f"certificate:{certificate}", certificate=certificate)


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


def check_binding(address: HostPort, option: str, *, keys: bool, allow_anonymous: bool) -> None:
    """Reject an address that other machines can reach, unless the server identifies callers or allows anonymous ones.

    Args:
        address: address to listen on.
        option: name of the option that has the address, for the error.
        keys: True if the server has keys, signed tokens or clients with certificates.
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
