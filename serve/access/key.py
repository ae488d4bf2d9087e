"""`Key`: rights of an API key, of a client's certificate or of a signed token, as data."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

import msgspec

from .limits.quota import Quota

__all__ = ["Highest", "Key", "Role"]

#: Roles: `user` calls the APIs, `monitor` only reads metrics, `admin` may do everything.
Role = Literal["user", "monitor", "admin"]

#: Priority classes, as in `engine.terms`, which this package does not import.
Highest = Literal["interactive", "normal", "bulk"]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key in the file, or the rights that a certificate or a token gives.

    Attributes:
        name: name of the owner. It is the client of the engine and the name in logs.
        sha256: SHA-256 of the key or token, hexadecimal; empty for a certificate.
        certificate: name in the certificate of the client that has these rights; None for a key or token.
        role: role of the key.
        expires: time from which the key is refused; None for never.
        limits: limits of the client; None for those of the server (`--limit`).
        models: names of the models that it may use; None for all.
        datasets: datasets of Longbow that it may write; None for all.
        routes: paths that it may call, such as `/v1/embeddings`, `/v1/*` or `flight:exchange`; None for all of its role.
        priority: highest priority class of its requests; None for every class.
        salt: True if its texts share no cache with other clients.
    """

    name: str
    sha256: str = ""
    certificate: str | None = None
    role: Role = "user"
    expires: datetime | None = None
    limits: Quota | None = None
    models: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    priority: Highest | None = None
    salt: bool = False

    def expired(self, now: float) -> bool:
        """Return whether the key is refused at a time, in seconds since 1970."""
        return now >= self.end

    @property
    def end(self) -> float:
        """Time from which the key is refused, in seconds since 1970. A time without a zone is in UTC."""
        if self.expires is None:
            return math.inf
        expires = self.expires if self.expires.tzinfo is not None else self.expires.replace(tzinfo=UTC)
        return expires.timestamp()

    def allows_route(self, route: str) -> bool:
        """Return whether the key may call a route."""
        if self.routes is None:
            return True
        return any(
            route == pattern or (pattern.endswith("*") and route.startswith(pattern[:-1])) for pattern in self.routes
        )
