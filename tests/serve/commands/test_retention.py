"""`fletcher-serve retention`: it shows, and removes only with --apply."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from fletcher.runtime.commandline.console import run
from fletcher.serve.commands.cli import app


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, ["retention", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_nothing_is_removed_without_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    file = tmp_path / "tokenizers" / "abc"
    file.parent.mkdir()
    file.write_text("")
    os.utime(file, (0, 0))
    assert call("--json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["kind"], shown["path"], shown["keep"], shown["state"]) == ("tokenizers", str(file), 365, "due")
    assert file.exists()
    assert call("--keep", "tokenizers=forever", "--apply") == 0
    assert file.exists()
    assert call("--apply") == 0
    assert not file.exists()
    assert call("--keep", "tokenizer=3") == 1
