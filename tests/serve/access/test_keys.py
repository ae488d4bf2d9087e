"""API keys: the file, HTTP and Flight, the admin API, and the addresses that need keys."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import cohere
import httpx
import openai
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from fletcher.runtime.commandline.console import run
from fletcher.runtime.errors import InputError
from fletcher.serve.access.addresses import is_loopback
from fletcher.serve.access.gate import Gate
from fletcher.serve.access.keys import Keys
from fletcher.serve.access.keys_file import add_key, read_keys, remove_key
from fletcher.serve.commands.cli import app
from fletcher.serve.errors import ForbiddenError, UnauthorizedError
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder, expected

BODY = {"model": "fake-model", "input": "ab"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def user(file: Path) -> str:
    return add_key(file, "ann")


@pytest.fixture
def guarded(file: Path, user: str) -> Iterator[Server]:
    with Server(
        FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="127.0.0.1:0", keys=str(file), admin="on")
    ) as server:
        yield server


def test_the_file_has_no_key_in_plain_text_and_only_its_owner_can_read_it(file: Path, user: str) -> None:
    assert user not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(user) > 40


def test_add_list_remove(file: Path, user: str) -> None:
    with pytest.raises(InputError, match="already"):
        add_key(file, "ann")
    add_key(file, "ops", "admin")
    assert [(key.name, key.role) for key in read_keys(file)] == [("ann", "user"), ("ops", "admin")]
    remove_key(file, "ann")
    assert Keys(file).find(user) is None
    with pytest.raises(InputError, match="ops"):
        remove_key(file, "ann")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "sha256": "xy"}]}', '{"keys": [], "x": 1}']
)
def test_invalid_files(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=r"keys\.json"):
        Keys(file)


def test_http_needs_the_key(guarded: Server, user: str) -> None:
    with httpx.Client(base_url=str(guarded.addresses.http)) as http:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {user}"},
            {"authorization": "Bearer é"},
        ):
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            response = http.post("/v1/embeddings", json=BODY, headers=encoded)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
        assert http.post("/embed", json={"inputs": "a"}).json()["error_type"] == "Validation"
        assert http.get("/metrics").status_code == 401
        for path in ("/health", "/ready", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200
        right = {"authorization": f"bearer {user}"}
        assert http.post("/v1/embeddings", json=BODY, headers=right).status_code == 200
        assert http.get("/metrics", headers=right).status_code == 403  # it shows what all clients do


def test_the_official_clients_send_it(guarded: Server, user: str) -> None:
    with openai.OpenAI(base_url=f"{guarded.addresses.http}/v1", api_key=user, max_retries=0) as client:
        assert client.embeddings.create(**BODY).model == "fake-model"  # type: ignore[arg-type]
    with (
        openai.OpenAI(base_url=f"{guarded.addresses.http}/v1", api_key="no", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.embeddings.create(**BODY)  # type: ignore[arg-type]
    with httpx.Client() as http, pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="no", base_url=str(guarded.addresses.http), httpx_client=http).embed(
            model="fake", input_type="search_query", texts=["a"]
        )


def test_flight_needs_the_key(guarded: Server, user: str) -> None:
    with fl.connect(str(guarded.addresses.flight)) as client:
        with pytest.raises(fl.FlightUnauthenticatedError, match="Authorization"):
            list(client.do_action("info"))
        options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {user}".encode())])
        assert list(client.do_action("info", options))
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_path("embed"), options)
        with writer:
            batch = pa.RecordBatch.from_pydict({"text": ["ab"]})
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            assert reader.read_all()["vector"][0].as_py() == expected("ab").tolist()


def test_the_admin_api_needs_the_role_of_admins(file: Path, guarded: Server, user: str) -> None:
    admin = add_key(file, "ops", "admin")
    assert guarded.models.specs
    with httpx.Client(base_url=str(guarded.addresses.http)) as http:
        assert http.get("/admin/models").status_code == 401
        assert http.get("/admin/models", headers={"authorization": f"Bearer {user}"}).status_code == 403
        # The running server accepts the new key after it has read the file again.
        assert http.get("/admin/models", headers={"authorization": f"Bearer {admin}"}).status_code == 401


def test_a_gate_reads_its_file_again(file: Path, user: str) -> None:
    keys = Keys(file)
    gate = Gate(keys)
    admin = add_key(file, "ops", "admin")
    with pytest.raises(UnauthorizedError):
        gate.enter("admin", f"Bearer {admin}", peer=None)
    keys.reload()
    assert gate.enter("admin", f"Bearer {admin}", peer=None).name == "ops"
    assert gate.enter("key", f"Bearer {user}", peer=None).name == "ann"
    file.write_text("broken")
    with pytest.raises(InputError):
        keys.reload()
    assert gate.enter("key", f"Bearer {user}", peer=None).name == "ann"


def test_without_keys_clients_of_the_loopback_are_admins() -> None:
    gate = Gate(None)
    assert gate.enter("admin", None, peer="127.0.0.1").name == ""
    assert gate.enter("admin", None, peer="::1").name == ""
    for peer in ("192.0.2.7", None, "::ffff:192.0.2.7"):
        with pytest.raises(ForbiddenError):
            gate.enter("admin", None, peer=peer)
    with pytest.raises(ForbiddenError):
        gate.enter("admin", None, peer="127.0.0.1", indirect=True)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost", "::ffff:127.0.0.1")),
        *((host, False) for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", None)),
    ],
)
def test_addresses_of_the_loopback(host: str | None, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("protocol", ["http", "flight"])
def test_another_interface_without_keys_needs_a_flag(protocol: str, file: Path, user: str) -> None:
    options = ServerOptions(http="off", flight="off").replace(**{protocol: "0.0.0.0:0"})
    with pytest.raises(InputError, match="--allow-anonymous"):
        Server(FakeEncoder(), options)
    with Server(FakeEncoder(), options.replace(allow_anonymous=True)):
        pass
    with Server(FakeEncoder(), options.replace(keys=str(file))):
        pass


def test_the_commands(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            run(app, ["keys", *words, "--keys", str(file)])
        assert ended.value.code == 0
        return capsys.readouterr().out

    key = command("add", "ann").strip()
    assert Keys(file).find(key) is not None
    command("add", "ops", "--admin")
    assert command("list") == "ann\tuser\tnever used\nops\tadmin\tnever used\n"
    command("remove", "ann")
    assert json.loads(command("list", "--json")) == [{"name": "ops", "role": "admin", "last_use": None}]
