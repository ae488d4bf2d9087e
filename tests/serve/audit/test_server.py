"""The audit log of a server of one process: what has a line, what it says, and what it never says."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.flight as fl
import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.access.keys_file import add_key
from fletcher.serve.audit.chain import read_head
from fletcher.serve.audit.verify import files_of, verify
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..fake_encoder import FakeEncoder

SECRET_TEXT = "the text of a patient"


class Running:
    """A server with keys, and its log."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.path = folder / "audit.jsonl"
        self.keys = folder / "keys.json"
        self.key = add_key(self.keys, "alice")
        self.admin = add_key(self.keys, "root", "admin")
        settings: dict[str, Any] = {
            "http": "127.0.0.1:0",
            "flight": "127.0.0.1:0",
            "keys": str(self.keys),
            "audit": str(self.path),
            "admin": "on",
            "models_root": str(folder),
        }
        self.server = Server(FakeEncoder(), ServerOptions(**(settings | options)))

    def ask(self, method: str, path: str, key: str | None, **more: Any) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.request(method, f"{self.server.addresses.http}{path}", headers=headers, timeout=20, **more)

    def embed(self, key: str | None) -> httpx.Response:
        return self.ask("POST", "/v1/embeddings", key, json={"model": "fake-model", "input": SECRET_TEXT})

    def lines(self) -> list[dict[str, Any]]:
        """Stop the server, and return the lines."""
        self.server.stop()
        assert not verify(files_of(self.path)).faults
        return [json.loads(line) for path in files_of(self.path) for line in path.read_bytes().splitlines()]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path)
    yield started
    started.server.stop()


def test_requests_refusals_and_changes_have_lines(running: Running) -> None:
    answer = running.embed(running.key)
    assert answer.status_code == 200
    assert running.embed(None).status_code == 401
    assert running.embed("wrong").status_code == 401
    assert running.ask("GET", "/metrics", running.key).status_code == 403
    assert running.ask("GET", "/nowhere", running.key).status_code == 404
    assert running.ask("DELETE", "/admin/models/absent", running.admin).status_code == 404
    running.server.reload_files()
    lines = running.lines()
    assert [(line["event"], line.get("status", line.get("change"))) for line in lines] == [
        ("start", None),
        ("request", 200),
        ("refused", 401),
        ("refused", 401),
        ("refused", 403),
        ("request", 404),
        ("change", "unload"),
        ("request", 404),
        ("change", "read files"),
        ("stop", None),
    ]
    embedded = lines[1]
    usage = answer.json()["usage"]
    assert (embedded["client"], embedded["peer"], embedded["route"]) == ("alice", "127.0.0.1", "/v1/embeddings")
    assert (embedded["model"], embedded["texts"], embedded["tokens"]) == ("fake-model", 1, usage["total_tokens"])
    assert embedded["bytes_out"] == len(answer.content)
    assert embedded["space"] == answer.headers["x-space"]
    assert embedded["request_id"] == answer.headers["x-request-id"]
    assert lines[4]["client"] == "alice"  # the name of a key that may not do this
    change = lines[6]
    assert (change["client"], change["subject"], change["result"]) == ("root", "absent", "failed")
    assert change["request_id"] == lines[7]["request_id"]


def test_flight_has_lines(running: Running) -> None:
    assert running.server.addresses.flight is not None
    options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {running.key}".encode())])
    ticket = fl.Ticket(json.dumps({"texts": [SECRET_TEXT]}).encode())
    with fl.connect(running.server.addresses.flight) as client:
        client.do_get(ticket, options).read_all()
        with pytest.raises(fl.FlightUnauthenticatedError):
            client.do_get(ticket).read_all()
    lines = running.lines()[1:-1]
    assert [(line["event"], line["door"], line["route"], line["status"]) for line in lines] == [
        ("request", "flight", "get", "ok"),
        ("refused", "flight", "get", "FlightUnauthenticatedError"),
    ]
    assert lines[0]["client"] == "alice" and lines[0]["texts"] == 1


def test_no_line_has_a_text_or_a_key(running: Running) -> None:
    running.embed(running.key)
    running.embed("wrong-key-of-a-caller")
    running.ask("POST", "/v1/embeddings", running.key, content=SECRET_TEXT)
    running.ask("POST", f"/{SECRET_TEXT}", running.key)
    running.server.stop()
    content = running.path.read_text()
    assert len(content.splitlines()) == 6
    for secret in (SECRET_TEXT, running.key, running.admin, "wrong-key-of-a-caller"):
        assert secret not in content


def test_heads_in_the_log_of_the_server_verify_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fletcher")
    running = Running(tmp_path, audit_size=1000)
    for _ in range(8):
        running.embed(running.key)
    running.lines()
    heads = [
        read_head(record.fields["head"])  # type: ignore[attr-defined]
        for record in caplog.records
        if record.getMessage() == "audit head"
    ]
    assert len(heads) >= 3
    assert not verify(files_of(running.path), heads).faults
    lines = running.path.read_bytes().splitlines(keepends=True)
    running.path.write_bytes(b"".join(lines[:-1]))
    assert verify(files_of(running.path), heads).faults


def test_texts_are_in_the_log_only_if_asked_for(tmp_path: Path) -> None:
    for name, asked in (("without", False), ("with", True)):
        folder = tmp_path / name
        folder.mkdir()
        running = Running(folder, audit_texts=asked)
        assert running.embed(running.key).status_code == 200
        long = ["a" * 30_000, "b" * 30_000, "c"]
        body = {"model": "fake-model", "input": long}
        assert running.ask("POST", "/v1/embeddings", running.key, json=body).status_code == 200
        ids = {"model": "fake-model", "input": [1, 2, 3]}
        running.ask("POST", "/v1/embeddings", running.key, json=ids)
        assert running.ask("POST", "/v1/embeddings", "wrong", json=body).status_code == 401
        assert running.server.addresses.flight is not None
        options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {running.key}".encode())])
        with fl.connect(running.server.addresses.flight) as client:
            client.do_get(fl.Ticket(b'{"texts": ["over Flight"]}'), options).read_all()
        lines = running.lines()
        found = [(line.get("inputs"), line.get("inputs_cut")) for line in lines if line["event"] == "request"]
        if not asked:
            assert found == [(None, None)] * 4
            assert SECRET_TEXT.encode() not in running.path.read_bytes()
            continue
        assert found == [
            ([SECRET_TEXT], None),
            (["a" * 30_000, "b" * 2768], 60_001 - 32_768),
            (None, None),
            (["over Flight"], None),
        ]
        assert [line.get("inputs") for line in lines if line["event"] == "refused"] == [None]


def test_texts_need_a_log() -> None:
    with pytest.raises(InputError, match="audit_texts needs a log"):
        ServerOptions(audit_texts=True)


def test_a_full_disk_stops_admission_if_the_rule_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    running = Running(tmp_path, audit_full="stop")
    log, trail = running.server._surroundings.audit_log, running.server._surroundings.trail
    assert log is not None and trail is not None

    def full(bodies: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trail, "_write", full)
    assert running.embed(running.key).status_code == 200
    end = time.monotonic() + 20
    while not trail.failing:
        assert time.monotonic() < end
        time.sleep(0.01)
    refused = running.embed(running.key)
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "audit_unavailable"
    assert int(refused.headers["retry-after"]) >= 1
    assert running.server.addresses.flight is not None
    options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {running.key}".encode())])
    with (
        fl.connect(running.server.addresses.flight) as client,
        pytest.raises(fl.FlightUnavailableError, match="cannot write its audit log"),
    ):
        client.do_get(fl.Ticket(b'{"texts": ["ab"]}'), options)
    assert running.ask("GET", "/health", None).status_code == 200
    monkeypatch.undo()
    while running.embed(running.key).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    page = running.ask("GET", "/metrics", running.admin).text
    assert "fletcher_audit_failing 0.0" in page
    assert "fletcher_audit_dropped_total 0.0" in page
    refusals = [line for line in page.splitlines() if line.startswith("fletcher_audit_refused_total")]
    assert float(refusals[0].rpartition(" ")[2]) >= 2
    lines = running.lines()
    assert [line["event"] for line in lines if line["event"] == "request" and line["status"] == 503] == []


def test_a_start_that_fails_leaves_the_log_to_the_next_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for changes in ({"http": address}, {"flight": address}):
            options: dict[str, Any] = {"http": "127.0.0.1:0", "flight": "off", "audit": str(tmp_path / "audit.jsonl")}
            with pytest.raises(InputError, match="the port is in use"):
                Server(FakeEncoder(), ServerOptions(**(options | changes)))
    Server(FakeEncoder(), ServerOptions(**options)).stop()
    assert not verify([tmp_path / "audit.jsonl"]).faults


def test_a_log_that_cannot_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"something else\n")
    with pytest.raises(InputError, match=r"--audit .*audit.jsonl is not an audit log"):
        Server(FakeEncoder(), ServerOptions(http="127.0.0.1:0", flight="off", audit=str(path)))
