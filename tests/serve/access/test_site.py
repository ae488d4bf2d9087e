"""A server without keys and web pages: names, origins, proxies; the admin API's place and its root for models."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from pathlib import Path
from typing import Any

import httpx
import pyarrow.flight as fl
import pytest

from fletcher.serve.access.keys_file import add_key
from fletcher.serve.access.site import SiteGuard
from fletcher.serve.errors import ForbiddenError
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

SECONDS = 20.0
BODY = {"model": "fake-model", "input": "ab"}


def serve(**options: Any) -> Server:
    chosen: dict[str, Any] = {"http": "127.0.0.1:0", "flight": "off", "drain_seconds": 5}
    return Server(FakeEncoder(), ServerOptions(**chosen | options))


def client(server: Server | Supervisor) -> httpx.Client:
    return httpx.Client(base_url=str(server.addresses.http), timeout=SECONDS)


def admin_client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=SECONDS)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "192.0.2.7", "127.0.0.1.evil.example", "", "[::1"]
)
def test_a_name_that_was_rebound_to_the_loopback_is_not_answered(host: str) -> None:
    with serve(admin="on") as server, client(server) as http:
        for path in ("/v1/models", "/metrics", "/admin/models"):
            assert http.get(path, headers={"host": host}).status_code == 403, (path, host)
        assert http.post("/v1/embeddings", json=BODY, headers={"host": host}).status_code == 403
        assert {http.get(path, headers={"host": host}).status_code for path in ("/health", "/ready")} == {200}


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80", "127.1.2.3"]
)
def test_names_of_the_loopback_are_answered(host: str) -> None:
    with serve() as server, client(server) as http:
        assert http.post("/v1/embeddings", json=BODY, headers={"host": host}).status_code == 200


def test_other_names_are_answered_if_the_operator_names_them(tmp_path: Path) -> None:
    named = {"host": "Models.example:8080"}
    with serve(allow_host=("models.example",)) as server, client(server) as http:
        assert http.get("/v1/models", headers=named).status_code == 200
        assert http.get("/v1/models", headers={"host": "x.example"}).status_code == 403
    with serve(http="0.0.0.0:0", allow_anonymous=True) as server:  # other machines have names for it
        port = str(server.addresses.http).rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=named).status_code == 200
    key = add_key(tmp_path / "keys", "ann")
    with serve(keys=str(tmp_path / "keys")) as server, client(server) as http:  # a page has no key
        assert http.get("/v1/models", headers=named | {"authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/encode", "/v1/ingest", "/tokenize", "/admin/models"])
def test_no_page_of_another_site_changes_anything(path: str, headers: dict[str, str]) -> None:
    with serve(admin="on") as server, client(server) as http:
        answer = http.post(path, content=b"{}", headers=headers | {"content-type": "text/plain"})
        assert answer.status_code == 403


def test_a_page_of_the_server_itself_and_programs_may_send_requests() -> None:
    with serve() as server, client(server) as http:
        own = {"origin": str(server.addresses.http), "sec-fetch-site": "same-origin"}
        for headers in ({}, own, {"sec-fetch-site": "none"}):
            assert http.post("/v1/embeddings", json=BODY, headers=headers).status_code == 200
    with serve(cors_allow_origin=("https://good.example",)) as server, client(server) as http:
        good = {"origin": "https://good.example", "sec-fetch-site": "cross-site"}
        assert http.post("/v1/embeddings", json=BODY, headers=good).status_code == 200
        assert http.post("/v1/embeddings", json=BODY, headers={"origin": "https://evil.example"}).status_code == 403


def test_the_guard_remembers_few_names() -> None:
    guard = SiteGuard([])
    for number in range(1000):
        with pytest.raises(ForbiddenError):
            guard.check("GET", {b"host": b"x%d.example" % number})
    assert guard._knows.cache_info().currsize <= 256


def test_the_admin_api_is_off_unless_it_is_asked_for() -> None:
    with serve(flight="127.0.0.1:0") as server, client(server) as http:
        answer = http.get("/admin/models")
        assert (answer.status_code, "--admin" in answer.text) == (404, True)
        assert "/admin/models" not in http.get("/openapi.json").json()["paths"]
        with (
            fl.connect(str(server.addresses.flight)) as flight,
            pytest.raises(fl.FlightUnauthorizedError, match="--admin on"),
        ):
            list(flight.do_action(fl.Action("unload", b"fake-model")))


@pytest.mark.parametrize(
    "header",
    ["x-forwarded-for", "forwarded", "via", "x-real-ip", "x-forwarded-host", "x-forwarded-proto", "cf-connecting-ip"],
)
def test_no_admin_where_something_was_forwarded(header: str) -> None:
    with serve(admin="on") as server, client(server) as http:
        assert http.get("/admin/models").status_code == 200
        assert http.get("/admin/models", headers={header: "203.0.113.7"}).status_code == 403
        assert http.delete("/admin/models/fake-model", headers={header: "127.0.0.1"}).status_code == 403


def test_the_admin_api_has_a_port_of_its_own() -> None:
    with (
        serve(admin="127.0.0.1:0") as server,
        client(server) as http,
        admin_client(str(server.addresses.admin)) as admin,
    ):
        assert http.get("/admin/models").status_code == 404
        assert [model["name"] for model in admin.get("/admin/models").json()["models"]] == ["fake-model"]
        assert admin.get("/ready").status_code == 200
        assert admin.post("/v1/embeddings", json=BODY).status_code == 404
        assert admin.get("/admin/models", headers={"host": "evil.example"}).status_code == 403


def test_the_admin_api_has_a_socket_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with serve(admin=f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o600
        connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/admin/models")
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["models"])) == (200, 1)
        connection.close()
    assert not path.exists()


def test_models_come_from_the_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.surroundings.fingerprint", lambda spec: spec.path)
    root, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    for folder in (root / "good", elsewhere):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(elsewhere)
    loaded: list[str] = []

    def load(spec: ModelSpec) -> FakeEncoder:
        loaded.append(spec.path)
        return FakeEncoder()

    options = ServerOptions(http="127.0.0.1:0", flight="off", drain_seconds=5, admin="on")
    with (
        Server([ModelSpec(path="first", name="m")], options.replace(models_root=str(root)), load=load) as server,
        client(server) as http,
    ):
        for path in (str(elsewhere), "../elsewhere", "link", "good/../../elsewhere", "/", "good\0", ".."):
            refused = http.post("/admin/models", json={"path": path, "name": "n"})
            assert refused.status_code == 403, path
        assert loaded == ["first"]
        for path in ("good", str(root / "good")):
            assert http.post("/admin/models", json={"path": path, "name": "n"}).status_code == 200
        assert loaded[1:] == [str(root / "good")] * 2
    with Server([ModelSpec(path="first", name="m")], options, load=load) as server, client(server) as http:
        refused = http.post("/admin/models", json={"path": str(root / "good"), "name": "n"})
        assert (refused.status_code, "--models-root" in refused.text) == (403, True)
        assert http.get("/admin/models").status_code == 200


def test_the_log_says_who_did_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    boss, user = add_key(file, "boss", "admin"), add_key(file, "ann")
    logging.getLogger("fletcher").propagate = True
    with (
        caplog.at_level(logging.DEBUG, "fletcher"),
        serve(admin="on", keys=str(file)) as server,
        client(server) as http,
    ):
        http.delete("/admin/models/nothing", headers={"authorization": f"Bearer {boss}"})
        http.get("/admin/models", headers={"authorization": f"Bearer {user}"})
        http.get("/v1/models", headers={"authorization": "Bearer wrong-key"})
        http.get("/v1/models", headers={"authorization": f"Bearer {user}"})
    lines = [(record.message, getattr(record, "fields", {})) for record in caplog.records]

    def some(message: str, **fields: object) -> bool:
        return any(text == message and fields.items() <= found.items() for text, found in lines)

    assert some("admin", change="unload", subject="nothing", client="boss", peer="127.0.0.1")
    assert some("admin change failed", change="unload", client="boss", error="UnknownModelError")
    assert some("request refused", status=403, client="ann", peer="127.0.0.1")
    assert some("request refused", status=401, client="127.0.0.1", peer="127.0.0.1")
    assert some("request", status=200, client="ann", peer="127.0.0.1", route="/v1/models")
    assert all(secret not in str(lines) for secret in (boss, user, "wrong-key"))


def test_fronts_guard_in_the_same_way(tiny_artifact: Path) -> None:
    options = ServerOptions(http="127.0.0.1:0", flight="off", fronts=2, admin="127.0.0.1:0", drain_seconds=5)
    body = {"model": "tiny", "input": "a"}
    with Supervisor([ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas")], options) as server:
        with client(server) as http:
            assert http.post("/v1/embeddings", json=body).status_code == 200
            for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
                assert http.post("/v1/embeddings", json=body, headers=headers).status_code == 403
                assert http.post("/v1/ingest", json={}, headers=headers).status_code == 403
            assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
            assert http.get("/admin/models").status_code == 404
        with admin_client(str(server.addresses.admin)) as admin:
            assert [model["name"] for model in admin.get("/admin/models").json()["models"]] == ["tiny"]
            assert admin.get("/admin/models", headers={"via": "1.1 proxy"}).status_code == 403
