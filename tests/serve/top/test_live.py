"""`watch` and the command: keys, a server that is away and comes back, one frame, JSON."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from fletcher.runtime.commandline.console import run
from fletcher.runtime.errors import ServiceError
from fletcher.serve.commands.cli import app
from fletcher.serve.top.frame import Frame, compare
from fletcher.serve.top.live import watch
from fletcher.serve.top.scrape import Scrape
from fletcher.serve.top.view import render

from .conftest import ask


def text_of(frame: Frame | None, problem: str | None = None) -> str:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(render(frame, "http://server", problem))
    return console.export_text()


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore `sys.excepthook`, which `run` replaces, after each test."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_a_frame_as_text_has_every_part(url: str, read: Callable[[], Scrape]) -> None:
    before = read()
    ask(url)
    now = read()
    text = text_of(compare(Scrape(now.time - 2.0, before.values), now))
    assert "last 2.0 s" in text
    (line,) = [line for line in text.splitlines() if "/v1/embeddings" in line]
    assert line.split()[:4] == ["http", "/v1/embeddings", "2", "0.5"]
    for word in ("tokenize", "queue", "compute", "output", "fake-model", "by hand", "UnknownModelError/s 0.5"):
        assert word in text
    assert "texts each 1.33" in text
    assert "device" not in text
    assert "waiting for values" in text_of(None)
    away = text_of(None, "cannot be reached")
    assert "cannot be reached" in away
    assert "waiting" not in away


def test_it_shows_a_server_that_is_away_and_comes_back(url: str, read: Callable[[], Scrape]) -> None:
    def reads() -> Scrape:
        step = len(shown)
        if step == 2:
            raise ServiceError("gone for a while")
        return read()

    shown: list[str] = []
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, legacy_windows=False)

    def keys(seconds: float) -> str:
        shown.append(stream.getvalue()[sum(map(len, shown)) :])
        return "x" if len(shown) < 5 else "q"

    ask(url)
    watch(reads, url, 0.1, console, keys)
    assert len(shown) == 5
    assert "waiting for values" in shown[0]
    assert "/metrics" in shown[1]
    assert "gone for a while" in shown[2]
    assert "/metrics" in shown[2]  # the last values
    assert "gone for a while" not in shown[4]
    assert "/metrics" in shown[4]


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(app, ["top", *arguments])
    return int(ended.value.code or 0)


def test_once_prints_one_frame(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(url, "--once", "--interval", "0.1") == 0
    assert "/metrics" in capsys.readouterr().out
    assert command(url, "--json", "--interval", "0.1") == 0
    frame = json.loads(capsys.readouterr().out)
    assert frame["routes"][0]["route"] == "/metrics"
    assert frame["seconds"] == pytest.approx(0.1, abs=0.09)


def test_once_fails_if_the_server_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("http://127.0.0.1:1", "--once") == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_the_key_q_ends_the_command_also_while_the_server_is_away() -> None:
    leader, follower = pty.openpty()
    started = "from fletcher.serve.commands.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", started, "top", "http://127.0.0.1:1", "--interval", "0.2"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
    )
    os.close(follower)
    try:
        screen, end = b"", time.monotonic() + 60
        while b"cannot be reached" not in screen and time.monotonic() < end:
            if select.select([leader], [], [], 1.0)[0]:
                screen += os.read(leader, 4096)
        assert b"cannot be reached" in screen
        os.write(leader, b"q")
        while process.poll() is None and time.monotonic() < end:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    os.read(leader, 4096)
                except OSError:
                    break
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(leader)
