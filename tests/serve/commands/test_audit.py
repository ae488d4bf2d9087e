"""`fletcher-serve audit`: exit codes, sentences and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fletcher.runtime.commandline.console import run
from fletcher.serve.audit.log_file import LogFile
from fletcher.serve.audit.verify import verify
from fletcher.serve.commands.cli import app

Command = Callable[..., tuple[object, str]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    file = LogFile(path, 600)
    for number in range(12):
        file.append([b'"event":"request","texts":%d' % number])
    file.close()
    return path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs the command, and returns its exit code and what it printed."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def call(*arguments: str) -> tuple[object, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(app, list(arguments))
        return ended.value.code, capsys.readouterr().out

    return call


def test_a_whole_log_passes_with_its_head(log: Path, command: Command) -> None:
    code, head = command("audit", "head", str(log))
    assert not code and head.startswith("12:")
    code, output = command("audit", "verify", str(log), "--head", head.strip())
    assert not code and output.startswith("12 lines from 1 to 12 are as they were written")
    code, output = command("--json", "audit", "verify", str(log))
    assert not code
    assert json.loads(output) == {"lines": 12, "first": 1, "head": head.strip(), "faults": []}


def test_a_changed_log_fails(log: Path, command: Command) -> None:
    head = str(verify([log]).head)
    log.write_bytes(log.read_bytes().replace(b'"texts":11', b'"texts":12'))
    code, output = command("audit", "verify", str(log), "--head", head)
    assert code == 1 and "line 12 is not the one of the head that was kept" in output
    code, output = command("--json", "audit", "verify", str(log), "--head", head)
    assert code == 1 and len(json.loads(output.splitlines()[0])["faults"]) == 1


def test_a_wrong_head_and_a_missing_file_are_named(log: Path, tmp_path: Path, command: Command) -> None:
    for arguments in ((str(log), "--head", "7"), (str(tmp_path / "absent"),)):
        assert command("audit", "verify", *arguments)[0] not in (0, None)
