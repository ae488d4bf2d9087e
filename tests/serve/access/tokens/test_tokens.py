"""Signed tokens: the attacks and mistakes of RFC 8725, rights of scopes, and the memory of verified tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fletcher.serve.access.room import FEW
from fletcher.serve.access.tokens.tokens import Tokens, is_signed
from fletcher.serve.errors import ForbiddenError, UnauthorizedError
from tests.doubles.issuer import Issuer, make_key, public_jwk


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def test_a_token_has_the_rights_of_its_scope(tokens: Tokens, issuer: Issuer) -> None:
    token = issuer.token()
    assert is_signed(token)
    key = tokens.find(token)
    assert (key.name, key.role, key.models) == ("token:alice", "user", None)
    assert tokens.find(issuer.token(scope="small other")).models == ("small",)
    assert tokens.find(issuer.token(scope=["few"])).limits is not None
    # The first scope of the settings counts.
    assert tokens.find(issuer.token(scope="embed admin")).role == "admin"


@pytest.mark.parametrize("scope", [None, "", "other", "embedding", [], 7])
def test_a_token_without_a_scope_is_forbidden(tokens: Tokens, issuer: Issuer, scope: object) -> None:
    with pytest.raises(ForbiddenError, match="none of the scopes admin, embed") as caught:
        tokens.find(issuer.token(scope=scope))
    assert caught.value.client == "token:alice"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 1}, "has expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"nbf": 9_999_999_999}, "not valid yet: the clocks"),
        ({"iat": 9_999_999_999}, "not valid yet: the clocks"),
        ({"iss": "https://other.example.org/"}, "another issuer"),
        ({"iss": None}, "lacks the claim iss"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["other", "fletcher2"]}, "another audience"),
        ({"aud": None}, "lacks the claim aud"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "is not a name"),
        ({"sub": "line\nbreak"}, "is not a name"),
        ({"sub": "x" * 300}, "is not a name"),
        ({"pad": "x" * 9000}, "more than 8192 characters"),
    ],
)
def test_claims_that_do_not_hold_are_refused(
    tokens: Tokens, issuer: Issuer, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnauthorizedError, match=reason):
        tokens.find(issuer.token(**changes))


def test_clocks_may_differ_by_the_leeway(tokens: Tokens, issuer: Issuer) -> None:
    now = int(time.time())
    assert tokens.find(issuer.token(exp=now - 20))
    assert tokens.find(issuer.token(iat=now + 20, nbf=now + 20))
    for token in (issuer.token(exp=now - 40), issuer.token(nbf=now + 40)):
        with pytest.raises(UnauthorizedError):
            tokens.find(token)


def test_several_audiences_include_this_server(tokens: Tokens, issuer: Issuer) -> None:
    assert tokens.find(issuer.token(aud=["other", "fletcher"]))


def test_a_token_without_a_signature_is_refused(tokens: Tokens, issuer: Issuer) -> None:
    for algorithm in ("none", "None", "NONE"):
        token = f"{part({'alg': algorithm, 'kid': 'one'})}.{part(issuer.claims())}."
        with pytest.raises(UnauthorizedError, match="algorithm is not one of RS256, ES256"):
            tokens.find(token)


def test_the_public_key_is_not_a_shared_secret(tokens: Tokens, issuer: Issuer) -> None:
    """An attacker signs by HMAC with the published key, and a verifier that believes `alg` would accept it."""
    public = issuer.keys["one"][0].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("HS256", "ES256"):
        signed = f"{part({'alg': algorithm, 'kid': 'one'})}.{part(issuer.claims())}"
        digest = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
        with pytest.raises(UnauthorizedError):
            tokens.find(f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_changed_part_is_refused(tokens: Tokens, issuer: Issuer, place: int) -> None:
    parts = issuer.token().split(".")
    if place == 1:
        parts[1] = part(issuer.claims(scope="admin"))
    elif place == 0:
        parts[0] = part({"alg": "ES256", "kid": "one", "typ": "x"})
    else:
        parts[2] = parts[2][:-8] + "AAAAAAAA"
    with pytest.raises(UnauthorizedError, match="the signed token is invalid"):
        tokens.find(".".join(parts))


@pytest.mark.parametrize(
    "token",
    [
        "eyJ..",
        "eyJ.eyJ.x",
        "eyJhbGciOiJFUzI1NiJ9..",
        "eyJé.a.b",
        "eyJ\udc80.a.b",
        base64.urlsafe_b64encode(b'{"alg":"ES256","x":' + b"[" * 5900).decode().rstrip("=") + ".e30.AAAA",
    ],
    ids=range(6),
)
def test_nonsense_is_refused(tokens: Tokens, token: str) -> None:
    with pytest.raises(UnauthorizedError):
        tokens.find(token)


def test_a_token_may_be_valid_for_longer_than_a_float_can_say(tokens: Tokens, issuer: Issuer) -> None:
    assert tokens.find(issuer.token(exp=10**400)).name == "token:alice"


def test_a_key_of_another_curve_is_refused(tokens: Tokens, issuer: Issuer) -> None:
    """A token that says ES256 and is signed with a key on P-384, which the issuer has for ES384."""
    issuer.add("large", "ES384")
    tokens.reload()
    key = issuer.keys["large"][0]
    header, claims = part({"alg": "ES256", "kid": "large"}), part(issuer.claims())
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    signature = key.sign(f"{header}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
    token = f"{header}.{claims}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(UnauthorizedError, match="does not belong to the kind or curve of its key"):
        tokens.find(token)
    with pytest.raises(UnauthorizedError, match="algorithm is not one of"):
        tokens.find(issuer.token("large"))


def test_only_the_algorithms_of_the_settings_are_accepted(issuer: Issuer, tmp_path: Path) -> None:
    for algorithm in ("RS256", "PS256", "ES512", "EdDSA"):
        issuer.add(algorithm, algorithm)
    tokens = Tokens(issuer.write_settings(tmp_path / "s.toml", more='algorithms = ["RS256", "ES512", "EdDSA"]'))
    for algorithm in ("RS256", "ES512", "EdDSA"):
        assert tokens.find(issuer.token(algorithm)).name == "token:alice"
    for refused in ("PS256", "one"):
        with pytest.raises(UnauthorizedError, match="algorithm is not one of RS256, ES512, EdDSA"):
            tokens.find(issuer.token(refused))
    tokens.close()


def test_extensions_that_must_be_understood_are_refused(tokens: Tokens, issuer: Issuer) -> None:
    key, algorithm = issuer.keys["one"]
    headers = {"kid": "one", "crit": ["exp"], "exp": 1}
    token = jwt.encode(issuer.claims(), key, algorithm, headers=headers)
    with pytest.raises(UnauthorizedError):
        tokens.find(token)


def test_a_key_in_the_token_is_ignored(tokens: Tokens, issuer: Issuer) -> None:
    key = make_key("ES256")
    headers = {"kid": "one", "jwk": public_jwk(key, "ES256", None), "jku": "http://127.0.0.1:1/", "x5u": "http://x/"}
    with pytest.raises(UnauthorizedError, match="is invalid"):
        tokens.find(jwt.encode(issuer.claims(), key, "ES256", headers=headers))


def test_a_verified_token_is_not_verified_again(
    tokens: Tokens, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token()
    first = tokens.find(token)
    monkeypatch.setattr(jwt, "decode", lambda *args, **kwargs: pytest.fail("verified again"))
    assert tokens.find(token) is first
    clock = time.time()
    monkeypatch.setattr("time.time", lambda: clock + 629)
    assert tokens.find(token) is first
    monkeypatch.setattr("time.time", lambda: clock + 631)
    monkeypatch.setattr(jwt, "decode", lambda *args, **kwargs: {"exp": 1})
    with pytest.raises(KeyError):
        tokens.find(token)


def test_expired_tokens_are_forgotten(tokens: Tokens, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [tokens.find(issuer.token(jti=str(number), exp=int(time.time()) + 5)) for number in range(FEW)]
    assert len(tokens._verified) == len({key.sha256 for key in old}) == FEW
    clock = time.time()
    monkeypatch.setattr("time.time", lambda: clock + 60)
    tokens.find(issuer.token(iat=None))
    assert len(tokens._verified) == 1


def test_messages_have_no_part_of_a_token(tokens: Tokens, issuer: Issuer) -> None:
    for token in (issuer.token(exp=1), issuer.token(aud="x"), issuer.token()[:-4] + "AAAA"):
        with pytest.raises(UnauthorizedError) as caught:
            tokens.find(token)
        assert not any(piece in str(caught.value) for piece in token.split("."))


def test_a_small_rsa_key_is_left_out(issuer: Issuer, settings: Path) -> None:
    issuer.keys["weak"] = rsa.generate_private_key(65537, 1024), "RS256"
    tokens = Tokens(settings)
    assert set(tokens.source.keys) == {"one"}
    tokens.close()
