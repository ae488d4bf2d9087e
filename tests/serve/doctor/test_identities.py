"""Checks of `doctor` of certificates, signed tokens and the admin API: each fault with its severity, and a fix."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fletcher.runtime.errors import InputError
from fletcher.serve.doctor import certificates
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions
from fletcher.serve.surroundings import make_loader
from tests.doubles.issuer import Issuer, make_key

from ..fake_encoder import FakeEncoder
from ..tls.conftest import DAY, Authority, Pair
from .conftest import LOOPBACK, Make, found, the


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> Authority:
    """A CA that this machine trusts."""
    made = Authority()
    monkeypatch.setattr(certificates, "_trusted_names", lambda: {made.subject})
    return made


def with_pair(pair: Pair, folder: Path, **changes: Any) -> ServerOptions:
    certificate, key = pair.write(folder)
    key.chmod(0o600)
    return LOOPBACK.replace(tls_cert=str(certificate), tls_key=str(key), **changes)


def bad(make: Make, options: ServerOptions, check: str = "certificates") -> list[tuple[str, str]]:
    """Return what a check finds wrong. Each finding has a fix."""
    return [(severity, text) for severity, text in found(check, make(options=options)) if severity != "ok"]


def test_no_tls(make: Make) -> None:
    assert the("certificates", make()) == ("ok", "no TLS")


def test_a_good_certificate(make: Make, authority: Authority, tmp_path: Path) -> None:
    options = with_pair(authority.server(end=30 * DAY), tmp_path, allow_host=("localhost", "127.0.0.1"))
    assert {severity for severity, _ in found("certificates", make(options=options))} == {"ok"}
    assert ("ok", "the certificate and its key belong together, and are valid for 29 days") in found(
        "certificates", make(options=options)
    )


@pytest.mark.parametrize(
    ("changes", "severity", "text"),
    [
        ({"begin": -5 * DAY, "end": -DAY}, "error", "expired at"),
        ({"begin": DAY}, "error", "check the clock"),
        ({"end": 3 * DAY}, "warning", "expires in 2 days"),
    ],
)
def test_the_time_of_a_certificate(
    make: Make, authority: Authority, tmp_path: Path, changes: dict[str, Any], severity: str, text: str
) -> None:
    ((found_severity, found_text),) = bad(make, with_pair(authority.server(**changes), tmp_path))
    assert found_severity == severity and text in found_text


def test_pairs_that_do_not_belong_together(make: Make, authority: Authority, tmp_path: Path) -> None:
    one, other = authority.server(end=30 * DAY), authority.server(curve=ec.SECP384R1)
    for pair, text in (
        (Pair(one.certificate, other.key), "(EC secp384r1) does not belong"),
        (Pair(one.certificate, one.key[:80]), "half-written"),
        (Pair(one.certificate[:200], one.key), "half-written"),
    ):
        ((severity, message),) = bad(make, with_pair(pair, tmp_path))
        assert severity == "error" and text in message


def test_the_chain(make: Make, authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.server(end=30 * DAY), Authority("Other CA")
    whole = Pair(pair.certificate + authority.pem, pair.key)
    assert not bad(make, with_pair(whole, tmp_path))
    ((severity, text),) = bad(make, with_pair(Pair(pair.certificate + other.pem, pair.key), tmp_path))
    assert severity == "error" and "did not issue" in text
    same_name = Authority()
    ((severity, text),) = bad(make, with_pair(Pair(pair.certificate + same_name.pem, pair.key), tmp_path))
    assert severity == "error" and "signature" in text
    ((severity, text),) = bad(make, with_pair(other.server(end=30 * DAY), tmp_path))
    assert severity == "advice" and "does not trust" in text


def test_names_are_compared_with_the_allowed_hosts(make: Make, authority: Authority, tmp_path: Path) -> None:
    names = (x509.DNSName("embed.example.org"), x509.DNSName("*.pods.example.org"))
    pair = authority.issue("embed", names, end=30 * DAY)
    right = ("EMBED.example.org", "a.pods.example.org")
    assert not bad(make, with_pair(pair, tmp_path, allow_host=right))
    for host in ("example.org", "a.b.pods.example.org", "10.0.0.1"):
        ((severity, text),) = bad(make, with_pair(pair, tmp_path, allow_host=(*right, host)))
        assert severity == "warning" and f"call the server as {host} refuse" in text
    ((severity, text),) = bad(make, with_pair(authority.issue("embed.example.org", end=30 * DAY), tmp_path))
    assert severity == "error" and "no alternative name" in text
    client = authority.issue("x", names, end=30 * DAY, client=True)
    ((severity, text),) = bad(make, with_pair(client, tmp_path))
    assert severity == "error" and "not for servers" in text


def test_the_file_of_the_key(make: Make, authority: Authority, tmp_path: Path) -> None:
    options = with_pair(authority.server(end=30 * DAY), tmp_path)
    assert options.tls_key is not None
    for mode, severity in ((0o644, "warning"), (0o660, "error"), (0o602, "error")):
        Path(options.tls_key).chmod(mode)
        ((found_severity, text),) = bad(make, options)
        assert found_severity == severity and options.tls_key in text
    Path(options.tls_key).chmod(0o644)
    subject = make(options=options, environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert {severity for severity, _ in found("certificates", subject)} == {"ok"}


def test_cas_and_revocation_lists_of_clients(make: Make, authority: Authority, tmp_path: Path) -> None:
    pair, authorities, lists = authority.server(end=30 * DAY), tmp_path / "ca.pem", tmp_path / "crl.pem"
    authorities.write_bytes(authority.pem)
    lists.write_bytes(authority.revoke(end=DAY))
    options = with_pair(pair, tmp_path, tls_client_ca=str(authorities), tls_client_crl=str(lists))
    assert not bad(make, options)
    lists.write_bytes(authority.revoke(end=DAY / 24))
    ((severity, text),) = bad(make, options)
    assert severity == "warning" and "revocation list" in text
    lists.write_bytes(authority.revoke(begin=-2 * DAY, end=-DAY))
    assert bad(make, options)[0][0] == "error"
    authorities.write_bytes(pair.certificate)
    ((severity, text),) = bad(make, with_pair(pair, tmp_path, tls_client_ca=str(authorities)))
    assert severity == "warning" and "not of CAs" in text


# Signed tokens --------------------------------------------------------------------------------------------------------


@pytest.fixture
def issuer() -> Any:
    running = Issuer()
    yield running
    running.close()


@pytest.fixture
def tokens(issuer: Issuer, tmp_path: Path) -> ServerOptions:
    return LOOPBACK.replace(jwt=str(issuer.write_settings(tmp_path / "jwt.toml")))


def test_signed_tokens(make: Make, issuer: Issuer, tokens: ServerOptions) -> None:
    assert the("signed tokens", make()) == ("ok", "no signed tokens")
    assert found("signed tokens", make(options=tokens)) == [
        ("ok", "tokens of https://issuer.example.org/ for fletcher are accepted"),
        ("ok", "1 keys of the issuer can be used"),
        ("ok", "the clock is that of the server of the keys"),
    ]


def test_keys_that_cannot_be_read_or_used(make: Make, issuer: Issuer, tokens: ServerOptions) -> None:
    issuer.broken = 500
    ((severity, text),) = bad(make, tokens, "signed tokens")
    assert severity == "error" and "answered with 500" in text
    issuer.broken = 0
    issuer.keys = {"one": (make_key("ES384"), "ES384")}
    ((severity, text),) = bad(make, tokens, "signed tokens")
    assert severity == "error" and "none of the issuer's 1 keys is for RS256, ES256" in text
    issuer.keys = {}
    ((severity, text),) = bad(make, tokens, "signed tokens")
    assert severity == "error" and "no key that can be used" in text
    issuer.add("two")
    issuer.extra = [{"kty": "oct", "k": "AAAA", "kid": "shared"}]
    ((severity, text),) = bad(make, tokens, "signed tokens")
    assert severity == "advice" and "'shared'" in text
    issuer.close()
    ((severity, text),) = bad(make, tokens, "signed tokens")
    assert severity == "error" and "does not answer" in text


@pytest.mark.parametrize(("late", "severity"), [(90, "warning"), (-90, "warning"), (10, "advice"), (-10, "advice")])
def test_clocks_apart(make: Make, issuer: Issuer, tokens: ServerOptions, late: float, severity: str) -> None:
    issuer.late = late
    ((found_severity, text),) = bad(make, tokens, "signed tokens")
    assert found_severity == severity and "differ by" in text


def test_settings_of_tokens(make: Make, issuer: Issuer, tokens: ServerOptions, tmp_path: Path) -> None:
    path = Path(tokens.jwt or "")
    text = path.read_text()
    for wrong in (text.replace('issuer = "', 'isuer = "'), text.replace('audience = "fletcher"', ""), "["):
        path.write_text(wrong)
        ((severity, _),) = bad(make, tokens, "signed tokens")
        assert severity == "error"
    path.write_text(text.replace('[scopes.admin]\nrole = "admin"\n', ""))
    assert not bad(make, tokens, "signed tokens")
    assert bad(make, tokens.replace(admin="on"), "signed tokens") == [
        ("advice", "the admin API is on, and no scope may use it")
    ]


# Admin API, and what identifies clients ---------------------------------------------------------------------------------


def test_the_admin_address_is_examined(make: Make, authority: Authority, tmp_path: Path) -> None:
    own = LOOPBACK.replace(admin="127.0.0.1:0")
    assert [text for _, text in found("addresses", make(options=own))] == [
        "--http 127.0.0.1:0 can be used",
        "--admin 127.0.0.1:0 can be used",
    ]
    # Without keys, an admin address is for the loopback alone, also with --allow-anonymous.
    outside = LOOPBACK.replace(admin="0.0.0.0:0", allow_anonymous=True)
    assert the("addresses", make(options=outside))[0] == "error"
    keyed = LOOPBACK.replace(admin="0.0.0.0:0", keys="keys.json")
    severity, text = the("transport", make(options=keyed))
    assert severity == "advice" and "0.0.0.0:0" in text
    tls = with_pair(authority.server(), tmp_path, admin="0.0.0.0:0", keys="keys.json")
    assert the("transport", make(options=tls)) == (
        "ok",
        "keys and texts are encrypted on their way from other machines",
    )


def test_tokens_and_certificates_identify_clients(
    make: Make, tokens: ServerOptions, authority: Authority, tmp_path: Path
) -> None:
    fine = ("ok", "certificates or signed tokens name the clients")
    assert the("keys", make(options=tokens.replace(http="0.0.0.0:0"))) == fine
    options = with_pair(authority.server(), tmp_path, tls_client_ca="ca.pem", http="0.0.0.0:0")
    assert the("keys", make(options=options)) == fine


def test_models_are_loaded_as_the_server_loads_them(make: Make, tiny_artifact: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_artifact, tmp_path / "own"))
    spec = ModelSpec(path=str(folder), name="tiny")
    loaded: list[ModelSpec] = []

    def load(spec: ModelSpec) -> FakeEncoder:
        loaded.append(spec)
        return FakeEncoder()

    verified = LOOPBACK.replace(require_verified=True)
    severity, text = found("artifacts", make(options=verified, specs=[spec], load=make_loader(verified, load)))[0]
    assert severity == "error" and "self-made" in text and not loaded
    with pytest.raises(InputError, match="self-made"):
        make_loader(verified, load)(spec)
    signed = LOOPBACK.replace(trusted_signer="key:abc")
    found("artifacts", make(options=signed, specs=[spec], load=make_loader(signed, load)))
    assert [one.require_signature for one in loaded] == ["key:abc"]
