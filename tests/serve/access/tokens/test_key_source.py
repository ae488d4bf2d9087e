"""Keys of an issuer: rotation, a server that does not answer, files, and the keys that are left out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime.errors import InputError, ServiceError
from fletcher.serve.access.tokens import key_source
from fletcher.serve.access.tokens.key_set import read_key_set
from fletcher.serve.access.tokens.settings import read_settings
from fletcher.serve.access.tokens.tokens import Tokens
from fletcher.serve.errors import KeysPendingError, UnauthorizedError
from tests.doubles.issuer import Issuer, make_key, public_jwk

SECONDS = 20.0


def until(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_new_key_is_fetched_when_a_token_names_it(
    tokens: Tokens, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_source, "PAUSE_SECONDS", 0.0)
    issuer.add("two", "RS256")
    with pytest.raises(KeysPendingError) as caught:
        tokens.find(issuer.token("two"))
    caught.value.ready.result(SECONDS)
    assert tokens.find(issuer.token("two")).name == "token:alice"


def test_made_up_keys_do_not_flood_the_issuer(tokens: Tokens, issuer: Issuer) -> None:
    reads = issuer.reads
    issuer.keys["made up"] = make_key("ES256"), "ES256"
    tokens.source._last_try = float("-inf")
    with pytest.raises(KeysPendingError) as caught:
        tokens.find(issuer.token("made up"))
    del issuer.keys["made up"]
    caught.value.ready.result(SECONDS)
    issuer.keys["other"] = make_key("ES256"), "ES256"
    token = issuer.token("other")
    for _ in range(20):
        with pytest.raises(UnauthorizedError, match="a key that its issuer does not have"):
            tokens.find(token)
    assert issuer.reads == reads + 1


def test_a_key_that_was_removed_ends_its_tokens(tokens: Tokens, issuer: Issuer) -> None:
    token = issuer.token()
    assert tokens.find(token)
    issuer.add("two")
    del issuer.keys["one"]
    tokens.reload()
    with pytest.raises(UnauthorizedError):
        tokens.find(token)


@pytest.mark.parametrize("fault", ["status", "empty", "not json", "away"])
def test_keys_go_on_while_the_server_does_not_answer(
    tokens: Tokens, issuer: Issuer, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token()
    if fault == "status":
        issuer.broken = 503
    elif fault == "away":
        issuer.close()
    else:
        monkeypatch.setattr(Issuer, "jwks", b'{"keys": []}' if fault == "empty" else b"<html>")
    with pytest.raises(
        InputError, match=issuer.jwks_url if fault in ("status", "away") else "the keys of the issuer|no key"
    ):
        tokens.reload()
    assert tokens.source.failures == 1
    assert tokens.find(token).name == "token:alice"


def test_a_server_that_hangs_does_not_hold_requests(
    tokens: Tokens, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_source, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(key_source, "TIMEOUT_SECONDS", 0.3)
    issuer.delay = 1.0
    token = issuer.token()
    issuer.add("two")
    began = time.monotonic()
    with pytest.raises(KeysPendingError) as caught:
        tokens.find(issuer.token("two"))
    assert tokens.find(token)
    assert time.monotonic() - began < 0.25
    caught.value.ready.result(SECONDS)
    until(lambda: tokens.source.failures >= 1)


def test_a_start_without_keys_is_an_error_that_names_the_server(issuer: Issuer, settings: Path) -> None:
    issuer.close()
    with pytest.raises(InputError, match=rf"{issuer.jwks_url}, does not answer"):
        Tokens(settings)


def test_a_front_begins_without_keys_and_gets_them_later(
    issuer: Issuer, settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.broken = 500
    tokens = Tokens(settings, needed=False)
    token = issuer.token()
    with pytest.raises(ServiceError, match="could not be read"):
        tokens.find(token)
    issuer.broken = 0
    monkeypatch.setattr(key_source, "PAUSE_SECONDS", 0.0)
    with pytest.raises(KeysPendingError) as caught:
        tokens.find(token)
    caught.value.ready.result(SECONDS)
    assert tokens.find(token)
    tokens.close()


def test_keys_are_read_again_by_themselves(issuer: Issuer, tmp_path: Path) -> None:
    tokens = Tokens(issuer.write_settings(tmp_path / "s.toml", more="refresh_seconds = 1"))
    issuer.add("two")
    until(lambda: "two" in tokens.source.keys)
    tokens.close()


def test_keys_of_a_file(issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(issuer.jwks)
    tokens = Tokens(issuer.write_settings(tmp_path / "s.toml", jwks=str(path)))
    assert tokens.find(issuer.token())
    path.write_bytes(b'{"keys": [')
    with pytest.raises(InputError, match="not a JWK Set"):
        tokens.reload()
    assert tokens.find(issuer.token())
    path.unlink()
    with pytest.raises(InputError, match=r"jwks.json, cannot be read"):
        tokens.reload()
    tokens.close()


def test_redirections_are_not_followed(issuer: Issuer, tokens: Tokens) -> None:
    issuer.broken = 302
    with pytest.raises(InputError, match="answered with 302"):
        tokens.reload()


def test_keys_that_cannot_verify_tokens_are_left_out() -> None:
    good = public_jwk(make_key("ES256"), "ES256", "good")
    private = make_key("ES256").private_numbers().private_value
    entries: list[dict[str, object]] = [
        good,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        public_jwk(make_key("RS256"), "RS256", "encryption", use="enc"),
        public_jwk(make_key("RS256"), "RS256", "other", alg="RSA-OAEP"),
        public_jwk(make_key("ES256"), "ES256", "wrong", crv="P-384"),
        public_jwk(make_key("ES256"), "ES256", "unknown", crv="secp256k1"),
        public_jwk(make_key("ES256"), "ES256", "private", d=str(private)),
        {"kid": "nothing"},
    ]
    keys, left_out = read_key_set(json.dumps({"keys": entries}).encode())
    assert set(keys) == {"good"}
    assert len(left_out) == len(entries) - 1
    assert not any(str(private) in reason or "c2VjcmV0" in reason for reason in left_out)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('algorithms = ["HS256"]', "HS256"),
        ('algorithms = ["none"]', "none"),
        ("algorithms = []", "length"),
        ("leeway_seconds = 4000", "leeway|<= 300"),
        ('unknown = "x"', "unknown"),
    ],
)
def test_settings_that_are_unknown_or_dangerous_are_refused(
    issuer: Issuer, tmp_path: Path, line: str, reason: str
) -> None:
    with pytest.raises(InputError, match=rf"--jwt .*s.toml .*({reason})"):
        read_settings(issuer.write_settings(tmp_path / "s.toml", more=line))


def test_keys_do_not_come_unencrypted_from_another_machine(issuer: Issuer, tmp_path: Path) -> None:
    path = issuer.write_settings(tmp_path / "s.toml", jwks="http://issuer.example.org/jwks.json")
    with pytest.raises(InputError, match="use https://"):
        read_settings(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_settings(tmp_path / "absent.toml")
