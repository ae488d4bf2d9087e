"""`TokenSettings`: the issuer whose tokens a server accepts, and the rights of their scopes, from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from fletcher.model_zoo.decode import decode_toml
from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

from ..addresses import is_loopback
from ..key import Highest, Role
from ..limits.quota import Quota

__all__ = ["Algorithm", "ScopeRights", "TokenSettings", "read_settings"]

#: Algorithms of signatures: those with a public key. A token with another one is refused.
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

#: Name of the option, for messages.
OPTION: Final = "--jwt"


class ScopeRights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rights of the tokens with a scope: the fields of `Key` that are not about a key itself.

    Attributes:
        role, limits, models, datasets, routes, priority, salt: as of `Key`.
    """

    role: Role = "user"
    limits: Quota | None = None
    models: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    priority: Highest | None = None
    salt: bool = False


class TokenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of signed tokens.

    Attributes:
        issuer: value of the claim `iss`.
        audience: value of the claim `aud` that is accepted, or several values.
        jwks: URL or file of the issuer's keys (JWK Set, RFC 7517).
        scopes: rights by scope. A token has the rights of the first scope here that it has.
        algorithms: accepted algorithms.
        name_claim: claim with the name of the client.
        scope_claim: claim with the scopes, as a text with spaces or as a list.
        leeway_seconds: seconds by which the clocks of issuer and server may differ.
        refresh_seconds: seconds after which the keys are read again.
        ca: file of the CAs of the JWKS server; None for those of the system.
    """

    issuer: Annotated[str, Meta(min_length=1)]
    audience: Annotated[str, Meta(min_length=1)] | Annotated[tuple[str, ...], Meta(min_length=1)]
    jwks: Annotated[str, Meta(min_length=1)]
    scopes: Annotated[dict[str, ScopeRights], Meta(min_length=1)]
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256")
    name_claim: str = "sub"
    scope_claim: str = "scope"
    leeway_seconds: Annotated[float, Meta(ge=0, le=300)] = 30.0
    refresh_seconds: Annotated[float, Meta(ge=1)] = 300.0
    ca: str | None = None

    @property
    def audiences(self) -> list[str]:
        """The accepted values of the claim `aud`."""
        return [self.audience] if isinstance(self.audience, str) else list(self.audience)

    @property
    def remote(self) -> bool:
        """True if the keys are behind a URL."""
        return "://" in self.jwks


def read_settings(path: Path) -> TokenSettings:
    """Read the settings.

    Raises:
        InputError: the file cannot be read, a setting is unknown or invalid, or the keys would come unencrypted from another
            machine.
    """
    try:
        settings = decode_toml(path.read_bytes(), TokenSettings)
    except OSError as error:
        raise InputError(f"{OPTION} {path} cannot be read: {explain(error)}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{OPTION} {path} is not a file of settings for signed tokens: {error}") from None
    if settings.remote:
        url = urlsplit(settings.jwks)
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname)):
            raise InputError(
                f"{OPTION} {path}: jwks is {settings.jwks!r}: use https://, http:// of the loopback, or a file"
            )
    return settings
