"""`read_key_set`: the public keys of an issuer from its JWK Set (RFC 7517), and the algorithms that each may verify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError

__all__ = ["IssuerKey", "read_key_set"]

#: Algorithms of each kind of key (RFC 7518 section 3.1, RFC 8037). A curve belongs to one algorithm.
OF_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
OF_CURVE: Final = {
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
    "Ed25519": frozenset({"EdDSA"}),
    "Ed448": frozenset({"EdDSA"}),
}

#: Smallest RSA key in bits (RFC 7518 section 3.3).
RSA_BITS: Final = 2048


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    crv: str | None = None


class _JwkSet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key.

    Attributes:
        key: the key, for PyJWT.
        algorithms: algorithms that it may verify.
    """

    key: Any
    algorithms: frozenset[str]


def read_key_set(content: bytes) -> tuple[dict[str | None, IssuerKey], list[str]]:
    """Return the keys of a JWK Set by their ids, and the reasons why others are left out.

    A key without an id has the id None. Symmetric keys, keys for encryption and small RSA keys are left out.

    Raises:
        InputError: the content is not a JWK Set, or it has no key that can be used.
    """
    try:
        entries = decode_json(content, _JwkSet).keys
    except msgspec.MsgspecError as error:
        raise InputError(f"the keys of the issuer are not a JWK Set: {error}") from None
    keys: dict[str | None, IssuerKey] = {}
    left_out = []
    for number, entry in enumerate(entries):
        try:
            jwk = msgspec.convert(entry, _Jwk)
            keys[jwk.kid] = _read_key(jwk, entry)
        except (msgspec.ValidationError, InputError) as error:
            left_out.append(f"key {entry.get('kid', number)!r}: {error}")
    if not keys:
        raise InputError(f"the issuer has no key that can be used ({'; '.join(left_out) or 'the set is empty'})")
    return keys, left_out


def _read_key(jwk: _Jwk, entry: dict[str, Any]) -> IssuerKey:
    """Return a key.

    Raises:
        InputError: it cannot verify tokens.
    """
    import jwt

    if jwk.use not in (None, "sig"):
        raise InputError(f"its use is {jwk.use}")
    if jwk.kty == "RSA":
        algorithms = OF_RSA
    elif jwk.kty in ("EC", "OKP") and jwk.crv in OF_CURVE:
        algorithms = OF_CURVE[jwk.crv]
    else:
        raise InputError(
            f"its kind is {jwk.kty}{f' on {jwk.crv}' if jwk.crv else ''}, which is not a public key for tokens"
        )
    if jwk.alg is not None:
        algorithms &= {jwk.alg}
    if not algorithms:
        raise InputError(f"its algorithm {jwk.alg} is not one of its kind")
    if "d" in entry:
        raise InputError("it is a private key")
    try:
        key = jwt.PyJWK(entry, algorithm=sorted(algorithms)[0]).key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise InputError(f"it cannot be read ({error})") from None
    if jwk.kty == "RSA" and key.key_size < RSA_BITS:
        raise InputError(f"it has {key.key_size} bits, and {RSA_BITS} are the least")
    return IssuerKey(key, algorithms)
