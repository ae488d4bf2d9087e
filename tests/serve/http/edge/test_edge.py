"""Servers behind proxies: the client's address, a prefix of the path, and Unix sockets, in one process and with fronts."""

from __future__ import annotations

import http.client
import json
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fletcher.runtime.errors import InputError, OptionError
from fletcher.serve.fronts.supervisor import Supervisor
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.observe.record import RequestRecord
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ...fake_encoder import FakeEncoder, expected

BODY = {"model": "fake-model", "input": "ab"}
SECONDS = 20.0


@contextmanager
def serving(**options: Any) -> Iterator[tuple[httpx.Client, list[RequestRecord]]]:
    """Serve the fake encoder. Yield a client and the records of its requests."""
    records: list[RequestRecord] = []
    chosen = ServerOptions(**{"http": "127.0.0.1:0", "flight": "off", "admin": "on"} | options)
    with Server(FakeEncoder(), chosen, consumers=[records.append]) as server:
        url = server.addresses.http or ""
        path = url.removeprefix("http+unix://")
        transport = httpx.HTTPTransport(uds=path) if path != url else None
        with httpx.Client(
            base_url="http://server" if transport else url, transport=transport, timeout=SECONDS
        ) as client:
            yield client, records


@pytest.mark.parametrize(
    ("trusted", "headers", "client"),
    [
        ((), {"x-forwarded-for": "203.0.113.7"}, "127.0.0.1"),
        (("127.0.0.1",), {"x-forwarded-for": "203.0.113.7"}, "203.0.113.7"),
        (("127.0.0.0/8",), {"forwarded": "for=203.0.113.7;proto=https"}, "203.0.113.7"),
        (("10.0.0.0/8",), {"x-forwarded-for": "203.0.113.7"}, "127.0.0.1"),
        (("127.0.0.1",), {}, "127.0.0.1"),
    ],
)
def test_the_client_of_a_request_is_the_one_that_a_trusted_proxy_names(
    trusted: tuple[str, ...], headers: dict[str, str], client: str
) -> None:
    with serving(trusted_proxy=trusted) as (http, records):
        assert http.post("/v1/embeddings", json=BODY, headers=headers).status_code == 200
    assert [record.client for record in records] == [client]


def test_a_request_through_a_proxy_on_this_machine_may_not_use_the_admin_api_without_keys() -> None:
    for trusted in ((), ("127.0.0.1",)):
        with serving(trusted_proxy=trusted) as (http, _):
            assert http.get("/admin/models").status_code == 200
            for header in ("x-forwarded-for", "forwarded"):
                value = "127.0.0.1" if header == "x-forwarded-for" else "for=127.0.0.1"
                assert http.get("/admin/models", headers={header: value}).status_code == 403


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match="trusted_proxy: 'proxy' is not a network"):
        ServerOptions(trusted_proxy=("proxy",))


# A prefix of the path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/fletcher"])
def test_paths_with_and_without_the_prefix_are_answered(prefix: str) -> None:
    with serving(root_path="/fletcher") as (http, records):
        answer = http.post(f"{prefix}/v1/embeddings", json=BODY)
        assert answer.json()["data"][0]["embedding"] == expected("ab").tolist()
        assert http.get(f"{prefix}/v1/models/fake-model").json()["id"] == "fake-model"
        assert http.get("/fletchers/v1/models").status_code == 404
        assert [record.route for record in records] == ["/v1/embeddings", "/v1/models/{id}", "unknown"]


@pytest.mark.parametrize(
    ("root_path", "asked", "shown"),
    [
        ("", "/", "/docs"),
        ("/fletcher", "/fletcher/", "/fletcher/docs"),
        ("/fletcher", "/fletcher", "/fletcher/docs"),
        ("/a/b", "/a/b/", "/a/b/docs"),
    ],
)
def test_the_redirect_to_the_documentation_stays_below_the_prefix(root_path: str, asked: str, shown: str) -> None:
    with serving(root_path=root_path) as (http, _):
        answer = http.get(asked, follow_redirects=True)
        assert (answer.status_code, answer.url.path) == (200, shown)


def test_a_redirect_of_a_server_that_does_not_know_its_prefix_stays_below_it() -> None:
    """A proxy passes `/fletcher/` on as `/`; the browser resolves the address of the answer against what it asked."""
    with serving() as (http, _):
        location = http.get("/").headers["location"]
        assert httpx.URL("https://example.org/fletcher/").join(location) == "https://example.org/fletcher/docs"


@pytest.mark.parametrize(("root_path", "url"), [("", "/"), ("/fletcher", "/fletcher")])
def test_the_openapi_document_names_the_server(root_path: str, url: str) -> None:
    with serving(root_path=root_path) as (http, _):
        assert http.get("/openapi.json").json()["servers"] == [{"url": url}]


@pytest.mark.parametrize("root_path", ["fletcher", "/fletcher/", "/", "//", "/a b", "/ä"])
def test_a_prefix_that_is_none_is_refused(root_path: str) -> None:
    with pytest.raises(OptionError, match="root_path is"):
        ServerOptions(root_path=root_path)


# Unix sockets ----------------------------------------------------------------------------------------------------------


def test_a_unix_socket_serves_with_its_permissions_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    for mode in ("600", "666"):
        with serving(http=f"unix:{path}", socket_mode=mode) as (http, records):
            assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
            answer = http.post("/v1/embeddings", json=BODY)
            assert answer.json()["data"][0]["embedding"] == expected("ab").tolist()
            assert records[0].client == ""
            assert http.get("/admin/models").status_code == 403  # a proxy may connect to the socket
        assert not path.exists()


def test_the_address_of_a_unix_socket_names_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Server(FakeEncoder(), ServerOptions(http="unix:http.sock", flight="off")) as server:
        assert server.addresses.http == f"http+unix://{tmp_path}/http.sock"


def test_a_proxy_on_a_unix_socket_names_the_client(tmp_path: Path) -> None:
    with serving(http=f"unix:{tmp_path}/http.sock", trusted_proxy=("unix",)) as (http, records):
        http.post("/v1/embeddings", json=BODY, headers={"x-forwarded-for": "203.0.113.7"})
        assert records[0].client == "203.0.113.7"


def test_a_socket_that_an_ended_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with serving(http=f"unix:{path}") as (http, _):
        assert http.get("/health").status_code == 200


def test_a_path_that_is_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    with pytest.raises(InputError, match="exists and is not a socket"):
        Server(FakeEncoder(), ServerOptions(http=f"unix:{file}", flight="off"))
    assert file.read_text() == "content"
    path = tmp_path / "http.sock"
    with serving(http=f"unix:{path}") as (http, _):
        with pytest.raises(InputError, match="a program listens there"):
            Server(FakeEncoder(), ServerOptions(http=f"unix:{path}", flight="off"))
        assert http.get("/health").status_code == 200
    for address, reason in ((f"unix:{tmp_path}/none/http.sock", "cannot listen"), ("unix:", "write the path")):
        with pytest.raises(InputError, match=reason):
            Server(FakeEncoder(), ServerOptions(http=address, flight="off"))
    with pytest.raises(OptionError, match="socket_mode is"):
        ServerOptions(socket_mode="0x9")


# Fronts ----------------------------------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    """HTTP connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("server", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


def test_fronts_have_the_same_edge(tiny_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    options = ServerOptions(
        http=f"unix:{path}",
        flight="off",
        fronts=2,
        admin="on",
        socket_mode="660",
        root_path="/fletcher",
        trusted_proxy=("unix",),
        cors_allow_origin=("https://example.org",),
    )

    def ask(method: str, target: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = _UnixConnection(path)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, None if body is None else json.dumps(body), named)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    body = {"model": "tiny", "input": "a text"}
    with Supervisor([ModelSpec(path=str(tiny_artifact), name="tiny", provider="mlas")], options) as server:
        assert server.addresses.http == f"http+unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        for prefix in ("", "/fletcher"):  # a front answers the first, the engine process the second
            status, headers, _ = ask("POST", f"{prefix}/v1/embeddings", body, origin="https://example.org")
            assert (status, headers["access-control-allow-origin"]) == (200, "https://example.org")
            status, headers, _ = ask("GET", f"{prefix}/v1/models", origin="https://example.org")
            assert (status, headers["access-control-allow-origin"]) == (200, "https://example.org")
        status, headers, _ = ask("GET", "/admin/models", origin="https://example.org")
        assert status == 403 and "access-control-allow-origin" not in headers
        status, _, document = ask("GET", "/openapi.json")
        assert json.loads(document)["servers"] == [{"url": "/fletcher"}]
        assert ask("GET", "/admin/models", x_forwarded_for="127.0.0.1")[0] == 403
    assert not path.exists()
