"""Servers that accept signed tokens: HTTP, Flight, roles, limits and records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.flight as fl
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.access.tokens import key_source
from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions
from tests.doubles.issuer import Issuer

from ...fake_encoder import FakeEncoder

BODY = {"model": "fake-model", "input": "ab"}
TICKET = fl.Ticket(b'{"texts": ["ab"]}')


@pytest.fixture
def records() -> list[RequestRecord]:
    return []


@pytest.fixture
def server(settings: Path, records: list[RequestRecord], tmp_path: Path) -> Iterator[Server]:
    add_key(tmp_path / "keys.json", "Program")
    options = ServerOptions(
        http="127.0.0.1:0", flight="127.0.0.1:0", jwt=str(settings), keys=str(tmp_path / "keys.json"), admin="on"
    )
    with Server(FakeEncoder(), options, consumers=[records.append]) as running:
        yield running


def embed(server: Server, token: str) -> httpx.Response:
    return httpx.post(f"{server.addresses.http}/v1/embeddings", json=BODY, headers={"authorization": f"Bearer {token}"})


def test_tokens_and_keys_stand_beside_each_other(
    server: Server, issuer: Issuer, records: list[RequestRecord], tmp_path: Path
) -> None:
    key = add_key(tmp_path / "keys.json", "Second")
    server.reload_files()
    assert embed(server, issuer.token()).status_code == 200
    assert embed(server, key).status_code == 200
    assert [record.client for record in records] == ["token:alice", "Second"]
    answer = embed(server, issuer.token(exp=1))
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert "has expired" in answer.text
    assert embed(server, issuer.token(scope="none")).status_code == 403
    assert records[-1].client == "token:alice"


def test_scopes_give_roles_models_and_limits(server: Server, issuer: Issuer) -> None:
    answer = embed(server, issuer.token(scope="small"))
    assert answer.status_code == 403 and "is not for the model" in answer.text
    few = [embed(server, issuer.token(scope="few", sub="bob", jti=str(number))).status_code for number in range(3)]
    assert few == [200, 200, 429]  # another token of the same client has the same limit
    for scope, status in (("embed", 403), ("admin", 200)):
        headers = {"authorization": f"Bearer {issuer.token(scope=scope)}"}
        assert httpx.get(f"{server.addresses.http}/admin/models", headers=headers).status_code == status
        assert httpx.get(f"{server.addresses.http}/metrics", headers=headers).status_code == status


def test_flight_accepts_tokens(
    server: Server, issuer: Issuer, records: list[RequestRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.addresses.flight is not None

    def options(token: str) -> fl.FlightCallOptions:
        return fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])

    with fl.connect(server.addresses.flight) as client:
        assert client.do_get(TICKET, options(issuer.token())).read_all().num_rows == 1
        assert records[-1].client == "token:alice"
        with pytest.raises(fl.FlightUnauthenticatedError, match="has expired"):
            client.do_get(TICKET, options(issuer.token(exp=1)))
        monkeypatch.setattr(key_source, "PAUSE_SECONDS", 0.0)
        issuer.add("two", "RS256")  # the call waits for the new key
        assert client.do_get(TICKET, options(issuer.token("two"))).read_all().num_rows == 1


def test_a_request_waits_for_a_new_key(server: Server, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_source, "PAUSE_SECONDS", 0.0)
    issuer.add("two")
    issuer.delay = 0.2
    token = issuer.token("two")
    assert embed(server, token).status_code == 200


def test_metrics_tell_that_the_issuer_does_not_answer(server: Server, issuer: Issuer) -> None:
    from fletcher.runtime.errors import InputError

    issuer.broken = 500
    with pytest.raises(InputError, match="answered with 500"):
        server.reload_files()
    headers = {"authorization": f"Bearer {issuer.token(scope='admin')}"}
    page = httpx.get(f"{server.addresses.http}/metrics", headers=headers).text
    assert "fletcher_jwks_failures_total 1.0" in page
    assert "fletcher_jwks_read_timestamp_seconds 1.7" in page


def test_other_machines_may_reach_a_server_with_tokens(settings: Path) -> None:
    with Server(FakeEncoder(), ServerOptions(http="0.0.0.0:0", flight="off", jwt=str(settings))) as running:
        url = f"{running.addresses.http}".replace("0.0.0.0", "127.0.0.1")
        answer = httpx.post(f"{url}/v1/embeddings", json=BODY)
        assert answer.status_code == 401 and "needs a signed token (JWT)" in answer.text
