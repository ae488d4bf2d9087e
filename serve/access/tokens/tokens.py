"""`Tokens`: check of signed tokens (JWT, RFC 7519) by the rules of RFC 8725. Verified tokens are kept by their digests."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fletcher.runtime.errors import InputError, MissingPackageError, ServiceError

from ...errors import ForbiddenError, KeysPendingError, UnauthorizedError
from ..key import Key
from ..room import FEW, make_room
from .key_set import IssuerKey
from .key_source import KeySource
from .settings import ScopeRights, read_settings

__all__ = ["Tokens", "is_signed", "require_packages"]

#: Beginning of the first part of a token: base64 of `{"`.
BEGINNING: Final = "eyJ"

#: Longest token in characters.
LONGEST: Final = 8192

#: Longest name of a client in characters.
LONGEST_NAME: Final = 256

#: Latest time at which a verified token is forgotten, in seconds since 1970. JSON has numbers that no float can have.
LATEST: Final = 1 << 53


def is_signed(token: str) -> bool:
    """Return whether a bearer token has the form of a signed token."""
    return token.startswith(BEGINNING) and token.count(".") == 2


class Tokens:
    """Check of tokens of one issuer. Safe to use from any thread.

    Attributes:
        source: the issuer's keys.
    """

    def __init__(self, path: Path, *, needed: bool = True) -> None:
        """Read the settings and the issuer's keys.

        Args:
            path: file of settings.
            needed: True if keys that cannot be read are an error. If not, tokens are refused until they can.

        Raises:
            InputError: the settings cannot be used, or the keys cannot be read.
            MissingPackageError: PyJWT or `cryptography` is not installed.
        """
        require_packages()
        self._settings = settings = read_settings(path)
        self._verified: dict[bytes, tuple[Key, float]] = {}
        self._room = FEW
        self.source = KeySource(settings, self._verified.clear)
        self.source.start(needed=needed)

    def find(self, token: str) -> Key:
        """Return the rights of a token.

        Raises:
            UnauthorizedError: the token is invalid, has expired, or is for another server.
            ForbiddenError: it has none of the scopes.
            KeysPendingError: it names a key that is being fetched.
            ServiceError: no keys could be read so far.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = self._verified.get(digest)
        if found is not None and time.time() < found[1]:
            return found[0]
        claims = self._claims(token)
        end = float(min(int(claims["exp"]), LATEST)) + self._settings.leeway_seconds
        key = self._rights(claims, digest, end)
        if len(self._verified) >= self._room:
            self._room = make_room(self._verified, lambda entry: entry[1])
        self._verified[digest] = key, end
        return key

    def reload(self) -> None:
        """Read the issuer's keys again.

        Raises:
            InputError: they cannot be read; those before go on.
        """
        try:
            self.source.read()
        except InputError:
            self.source.failures += 1
            raise

    def close(self) -> None:
        """End the thread that reads the keys."""
        self.source.close()

    def _claims(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token after all checks."""
        import jwt

        settings = self._settings
        try:
            if len(token) > LONGEST:
                raise UnauthorizedError(f"the signed token has more than {LONGEST} characters")
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in settings.algorithms:
                raise UnauthorizedError(f"the signed token's algorithm is not one of {', '.join(settings.algorithms)}")
            if "crit" in header:  # RFC 7515 section 4.1.11: extensions that this server does not understand
                raise UnauthorizedError("the signed token needs extensions that this server does not have")
            key = self._key(header.get("kid"))
            if algorithm not in key.algorithms:
                raise UnauthorizedError("the signed token's algorithm does not belong to the kind or curve of its key")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=settings.audiences,
                issuer=settings.issuer,
                leeway=settings.leeway_seconds,
                options={"require": ["exp", "iss", "aud", settings.name_claim]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthorizedError("the signed token has expired") from None
        except jwt.ImmatureSignatureError:
            raise UnauthorizedError(
                "the signed token is not valid yet: the clocks of issuer and server may differ"
            ) from None
        except jwt.InvalidAudienceError:
            raise UnauthorizedError("the signed token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise UnauthorizedError("the signed token is from another issuer") from None
        except jwt.MissingRequiredClaimError as error:
            raise UnauthorizedError(f"the signed token lacks the claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):  # the last one of brackets in brackets
            raise UnauthorizedError("the signed token is invalid") from None
        return claims

    def _key(self, name: object) -> IssuerKey:
        """Return a key of the issuer.

        Raises:
            UnauthorizedError, KeysPendingError, ServiceError: as for `find`.
        """
        keys = self.source.keys
        if name is None and len(keys) == 1:
            return next(iter(keys.values()))
        key = keys.get(name) if name is None or isinstance(name, str) else None
        if key is not None:
            return key
        if (ready := self.source.ask()) is not None:
            raise KeysPendingError("the keys of the issuer are being read: try again in a moment", ready)
        if not keys:
            raise ServiceError("the keys of the issuer could not be read, so signed tokens cannot be checked")
        raise UnauthorizedError("the signed token names a key that its issuer does not have")

    def _rights(self, claims: Mapping[str, Any], digest: bytes, end: float) -> Key:
        """Return the rights of claims until their end, in seconds since 1970.

        Raises:
            ForbiddenError: none of the scopes has rights.
            UnauthorizedError: the name cannot be used.
        """
        name = claims[self._settings.name_claim]
        if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST_NAME):
            raise UnauthorizedError(f"the claim {self._settings.name_claim} of the signed token is not a name")
        client = f"token:{name}"
        scopes = claims.get(self._settings.scope_claim, ())
        names = scopes.split() if isinstance(scopes, str) else scopes if isinstance(scopes, list) else ()
        rights = next((rights for scope, rights in self._settings.scopes.items() if scope in names), None)
        if rights is None:
            raise ForbiddenError(f"the signed token has none of the scopes {', '.join(self._settings.scopes)}", client)
        try:
            expires = datetime.fromtimestamp(end, UTC)
        except (ValueError, OverflowError, OSError):  # beyond the year 9999
            expires = None
        return Key(name=client, sha256=digest.hex(), expires=expires, **_fields(rights))


def _fields(rights: ScopeRights) -> dict[str, Any]:
    return {name: getattr(rights, name) for name in ScopeRights.__struct_fields__}


def require_packages() -> None:
    """Import what the check of signed tokens needs.

    Raises:
        MissingPackageError: a package is not installed.
    """
    try:
        import cryptography  # noqa: F401 - PyJWT reports its absence late, and as an unknown algorithm
        import jwt  # noqa: F401
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("jwt", "cryptography"):
            raise
        raise MissingPackageError("PyJWT" if package == "jwt" else package, "jwt", "--jwt") from error
