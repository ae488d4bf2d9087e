"""The queue of a process: order, a log that cannot be written, both rules, and the end."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fletcher.serve.audit import trail as trails
from fletcher.serve.audit.channel import AuditServer, RemoteLog
from fletcher.serve.audit.log_file import LogFile
from fletcher.serve.audit.trail import Trail
from fletcher.serve.audit.verify import verify
from fletcher.serve.errors import AuditError
from fletcher.serve.observe.record import RequestRecord, Stages

SECONDS = 20.0


def record(number: int, **changes: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "door": "http",
        "id": f"req-{number}",
        "client": "alice",
        "peer": "127.0.0.1",
        "route": "/v1/embeddings",
        "model": "m",
        "version": "1",
        "space": "s",
        "texts": 1,
        "tokens": 2,
        "bytes_in": 3,
        "bytes_out": 4,
        "status": 200,
        "error": None,
        "stages": Stages(total=0.25),
        "trace": None,
    }
    return RequestRecord(**(fields | changes))


class Disk:
    """A log in memory that can be full."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.full = False

    def write(self, bodies: Sequence[bytes]) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.lines += [json.loads(b"{" + body + b"}") for body in bodies]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trails, "PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(trails, "RETRY_SECONDS", 0.02)


def until(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_lines_have_the_fields_of_the_record_in_order() -> None:
    disk = Disk()
    trail = Trail(disk.write, "drop")
    began = time.time()
    for number in range(3):
        trail.record(record(number))
    trail.record(record(3, status=401, error="UnauthorizedError", model="", texts=0))
    trail.note("change", {"change": "load", "subject": "/models/m", "result": "done"})
    trail.close()
    assert [line.get("request_id") for line in disk.lines] == ["req-0", "req-1", "req-2", "req-3", None]
    assert [line["event"] for line in disk.lines] == ["request"] * 3 + ["refused", "change"]
    line = disk.lines[0]
    moment = line.pop("time")
    assert moment.startswith(time.strftime("%Y-%m-%dT%H:", time.gmtime(began))) and moment.endswith("Z")
    assert line == {
        "event": "request",
        "client": "alice",
        "peer": "127.0.0.1",
        "door": "http",
        "route": "/v1/embeddings",
        "request_id": "req-0",
        "model": "m",
        "version": "1",
        "space": "s",
        "texts": 1,
        "tokens": 2,
        "bytes_in": 3,
        "bytes_out": 4,
        "status": 200,
        "seconds": 0.25,
    }


def test_stop_refuses_requests_until_the_disk_has_room_and_loses_no_line() -> None:
    disk = Disk()
    trail = Trail(disk.write, "stop")
    trail.check()
    disk.full = True
    trail.record(record(0))
    until(lambda: trail.failing)
    with pytest.raises(AuditError, match="cannot write its audit log") as caught:
        trail.check()
    assert caught.value.retry_after > 0
    trail.record(record(1))  # it was under way
    trail.record(record(2, error="AuditError", status=503))
    disk.full = False
    until(lambda: not trail.failing)
    trail.check()
    trail.close()
    assert [line["request_id"] for line in disk.lines] == ["req-0", "req-1"]
    assert (trail.dropped, trail.refused) == (0, 1)


def test_drop_answers_and_tells_how_many_lines_are_missing() -> None:
    disk = Disk()
    trail = Trail(disk.write, "drop", most_waiting=5)
    disk.full = True
    trail.record(record(0))
    until(lambda: trail.failing)
    for number in range(1, 11):
        trail.check()
        trail.record(record(number))
    assert trail.dropped == 5
    disk.full = False
    until(lambda: len(disk.lines) == 7)
    trail.close()
    assert [line.get("request_id", line.get("count")) for line in disk.lines] == [
        "req-0",
        5,
        *[f"req-{number}" for number in range(1, 6)],
    ]


def test_a_close_without_a_disk_returns(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    disk.full = True
    trail = Trail(disk.write, "drop")
    trail.record(record(0))
    began = time.monotonic()
    trail.close()
    assert time.monotonic() - began < 2
    assert "the audit log lacks its last lines" in caplog.text


def test_processes_write_one_chain_through_the_supervisor(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "audit.jsonl", 5000)
    server = AuditServer(log, tmp_path / "s")
    remotes = [RemoteLog(str(tmp_path / "s")) for _ in range(3)]
    made = [Trail(remote.write, "stop") for remote in remotes]

    def fill(trail: Trail, first: int) -> None:
        for number in range(first, first + 50):
            trail.record(record(number))

    threads = [threading.Thread(target=fill, args=(trail, 100 * index)) for index, trail in enumerate(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for trail in made:
        trail.close()
    server.close()
    log.close()
    for remote in remotes:
        remote.close()
    from fletcher.serve.audit.verify import files_of

    paths = files_of(tmp_path / "audit.jsonl")
    findings = verify(paths)
    assert (findings.lines, findings.faults) == (150, [])
    found = [json.loads(line)["request_id"] for path in paths for line in path.read_bytes().splitlines()]
    for index in range(3):  # each process's lines are in their order
        own = [name for name in found if int(name[4:]) // 100 == index]
        assert own == [f"req-{100 * index + number}" for number in range(50)]


def test_a_process_goes_on_when_the_supervisors_disk_is_full_or_it_is_away(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "audit.jsonl", 1 << 30)
    server = AuditServer(log, tmp_path / "s")
    remote = RemoteLog(str(tmp_path / "s"))
    own, log._file = log._file, os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError, match="did not write"):
        remote.write([b'"a":1'])
    os.close(log._file)
    log._file = own
    remote.write([b'"a":1', b'"a":2'])
    server.close()
    with pytest.raises(OSError):
        remote.write([b'"a":3'])
    (tmp_path / "s").unlink()
    server = AuditServer(log, tmp_path / "s")
    remote.write([b'"a":3'])
    server.close()
    remote.close()
    log.close()
    assert [json.loads(line)["a"] for line in (tmp_path / "audit.jsonl").read_bytes().splitlines()] == [1, 2, 3]


def test_the_supervisor_accepts_again_after_it_had_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, failures = socket.socket.accept, [errno.EMFILE, errno.ENFILE]

    def fail_twice(listener: socket.socket) -> Any:
        if failures and listener.getsockname() == str(tmp_path / "s"):  # servers of earlier tests may still accept
            number = failures.pop()
            raise OSError(number, os.strerror(number))
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fail_twice)
    log = LogFile(tmp_path / "audit.jsonl", 1 << 30)
    server = AuditServer(log, tmp_path / "s")
    remote = RemoteLog(str(tmp_path / "s"))
    remote.write([b'"a":1'])
    remote.close()
    server.close()
    log.close()
    assert json.loads((tmp_path / "audit.jsonl").read_bytes())["a"] == 1
    assert caplog.text.count("a connection was not accepted") == 2


def test_half_a_message_is_not_written(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "audit.jsonl", 1 << 30)
    server = AuditServer(log, tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "s"))
        connection.sendall(b'\x20\0\0\0"a":1\n')
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    server.close()
    log.close()
    assert (tmp_path / "audit.jsonl").read_bytes() == b""
