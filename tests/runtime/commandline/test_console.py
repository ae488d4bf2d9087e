"""Shared command line: options from all sources, results as text and JSON, and messages of errors."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import typer

from fletcher.runtime.commandline.console import make_app, reporter, run
from fletcher.runtime.commandline.reporter import Reporter, Table
from fletcher.runtime.errors import InputError

app = make_app("fletcher-try", "For tests.")
model = typer.Typer(help="Models.")
app.add_typer(model, name="model")


@app.command("show")
def show(
    ctx: typer.Context,
    token_budget: Annotated[int, typer.Option("--token-budget", min=1)] = 512,
    tags: Annotated[list[str] | None, typer.Option("--tag")] = None,
    force: Annotated[bool, typer.Option("--force")] = False,
) -> None:
    """Show the options."""
    reporter(ctx).line("a line")
    reporter(ctx).result({"budget": token_budget, "tags": tags or [], "force": force})


@app.command("fail")
def fail(kind: str) -> None:
    """Fail."""
    if kind == "input":
        raise InputError("asked for the moon")
    if kind == "full":
        raise OSError(28, "No space left on device", "out.npy")
    if kind == "missing":
        Path("/nowhere/at/all").read_bytes()
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "warning":
        fields = {"provider": "one", "reason": "no driver"}
        logging.getLogger("fletcher.runtime.tuning").warning("provider skipped", extra={"fields": fields})
        logging.getLogger("fletcher.runtime.tuning").info("not shown")
    if kind == "defect":
        raise ZeroDivisionError("by nought")
    if kind == "wait":
        typer.echo("waiting")
        sys.stdout.flush()
        time.sleep(60)


@app.command("work")
def work(ctx: typer.Context) -> None:
    """Work."""
    with reporter(ctx).count("working", total=1_500_000, units=("bytes",)) as counter:
        for _ in range(3):
            counter.advance(500_000)


@model.command("export")
def export(ctx: typer.Context, output: Annotated[Path, typer.Option("--output", "-o")]) -> None:
    """Export."""
    reporter(ctx).result({"output": output})


if __name__ == "__main__":
    run(app)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLETCHER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, args)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def shown(capsys: pytest.CaptureFixture[str], *args: str) -> object:
    assert call(*args) == 0
    return json.loads(capsys.readouterr().out)


def spawn(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_json_leaves_stdout_to_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "--json", "--tag", "a", "--tag", "b", "--force") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"budget": 512, "tags": ["a", "b"], "force": True}
    assert captured.err == "a line\n"


def test_json_may_come_before_the_command_or_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(capsys, "--json", "show") == {"budget": 512, "tags": [], "force": False}
    monkeypatch.setenv("FLETCHER_JSON", "1")
    assert shown(capsys, "show") == {"budget": 512, "tags": [], "force": False}


def test_text_results_have_a_line_per_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "--token-budget", "8192") == 0
    assert capsys.readouterr().out == "a line\nbudget  8,192\ntags    none\nforce   no\n"


def test_command_line_overrides_environment_overrides_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "fletcher.toml"
    config.write_text('[show]\ntoken-budget = 1\ntag = ["x", "y"]\nforce = true\n[model.export]\noutput = "there"\n')
    monkeypatch.setenv("FLETCHER_JSON", "1")
    expected = {"budget": 1, "tags": ["x", "y"], "force": True}
    assert shown(capsys, "show", "--config", str(config)) == expected
    assert shown(capsys, "--config", str(config), "show") == expected
    monkeypatch.setenv("FLETCHER_CONFIG", str(config))
    assert shown(capsys, "model", "export") == {"output": "there"}
    monkeypatch.setenv("FLETCHER_SHOW_TOKEN_BUDGET", "2")
    assert shown(capsys, "show") == {**expected, "budget": 2}
    assert shown(capsys, "show", "--token-budget", "3") == {**expected, "budget": 3}


def test_environment_reaches_nested_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLETCHER_MODEL_EXPORT_OUTPUT", "elsewhere")
    assert shown(capsys, "model", "export", "--json") == {"output": "elsewhere"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[show]\ntokenbudget = 1\n", "did you mean"),
        ("[show]\ntoken-budget = 'many'\n", "token-budget"),
        ("show = 3\n", "must be a table"),
        ("[show\n", "is not a TOML file"),
    ],
)
def test_a_wrong_config_file_is_a_usage_error(
    content: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(content)
    assert call("show", "--config", str(config)) == 2
    # The error box wraps lines: compare without its frame.
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in error


def test_a_missing_config_file_is_a_usage_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("show", "--config", str(tmp_path / "none.toml")) == 2


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("input", 1, "asked for the moon"),
        ("full", 1, "out.npy: no space is left"),
        ("missing", 1, "/nowhere/at/all: no such file or folder"),
    ],
)
def test_failures_are_one_message_without_a_stack_trace(
    kind: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fail", kind) == code
    error = capsys.readouterr().err
    assert error.startswith(f"fletcher-try: error: {message}")
    assert error.count("\n") == 1


def test_debug_adds_the_stack_trace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("fail", "input", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("FLETCHER_DEBUG", "1")
    assert call("fail", "input") == 1
    assert "Traceback" in capsys.readouterr().err


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", "--no-such-option") == 2
    assert call("show", "--token-budget", "0") == 2
    assert call("nonsense") == 2


def test_a_warning_of_the_log_has_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(app, ["fail", "warning"])
    assert capsys.readouterr().err == "warning: provider skipped: provider one, reason no driver\n"
    assert not any(type(one).__name__ == "_Lines" for one in logging.getLogger("fletcher").handlers)


def test_interrupt_exits_130() -> None:
    assert call("fail", "interrupt") == 130


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from fletcher import __version__

    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_defect_is_reported_without_a_stack_trace() -> None:
    process = spawn("fail", "defect")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "unexpected ZeroDivisionError: by nought" in error
    assert "Traceback" not in error
    process = spawn("fail", "defect", "--debug")
    _, error = process.communicate(timeout=60)
    assert "Traceback" in error


def test_termination_unwinds_and_exits_143() -> None:
    process = spawn("fail", "wait")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (143, "")


def test_a_closed_output_pipe_ends_the_command_without_a_message() -> None:
    process = spawn("show")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


def test_completion_script_is_offered() -> None:
    # typer detects the shell from the parent process. Its variable names a shell for processes without one.
    environment = {**os.environ, "_FLETCHER_TRY_COMPLETE": "source_bash"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "complete" in done.stdout
    assert "fletcher-try" in done.stdout


def test_progress_without_a_terminal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter().count("embedding", total=1000, units=("texts", "tokens")) as counter:
        for _ in range(1000):
            counter.advance(1, 20)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("embedding: 1,000/1,000 texts, ")
    assert captured.err.endswith(" tokens/s\n")


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [
        (0, 30, "0/11 recipes, next"),
        (5, 120, "5/11 recipes, 24 s each, 2.4 min left, next"),
        (1, 1000, "1/11 recipes, 16.7 min each, 2.8 h left, next"),
        (10, 35, "10/11 recipes, 3.5 s each, 3.5 s left, next"),
        (10, 5, "10/11 recipes, 2 recipes/s, 0.5 s left, next"),
        (11, 22, "11/11 recipes, 2 s each, next"),
    ],
)
def test_a_slow_rate_is_the_time_of_one_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, done: int, seconds: float, text: str
) -> None:
    now = [100.0]
    monkeypatch.setattr("fletcher.runtime.commandline.reporter.time.monotonic", lambda: now[0])
    with Reporter().count("sweeping", total=11, units=("recipes",), note=lambda: "next") as counter:
        now[0] += seconds
        counter.advance(done)
    assert capsys.readouterr().err == f"sweeping: {text}\n"


def test_earlier_work_does_not_count_for_the_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("fletcher.runtime.commandline.reporter.time.monotonic", lambda: now[0])
    with Reporter().count("training", total=150, done=90) as counter:
        now[0] += 50
        counter.advance(10)  # 10 of 60 steps in 50 s
    assert capsys.readouterr().err == "training: 100/150 steps, 5 s each, 4.2 min left\n"


def test_an_empty_list_is_shown_as_none(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().result({"canary_unchecked": (), "variants": ("a", "b")})
    assert capsys.readouterr().out == "canary unchecked  none\nvariants          a, b\n"


def test_progress_on_a_terminal_is_a_bar() -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, __file__, "work"],
        stderr=child,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(child)
    output = b""
    with contextlib.suppress(OSError):  # Linux ends a pseudo-terminal with EIO
        while block := os.read(parent, 4096):
            output += block
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert b"100%" in output
    assert b"1.5/1.5 MB" in output


def test_progress_rejects_amounts_that_do_not_fit_its_units() -> None:
    with (
        Reporter().count("embedding", units=("texts", "tokens")) as counter,
        pytest.raises(ValueError, match="texts"),
    ):
        counter.advance(1)


def test_results_hold_paths_and_numpy_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(as_json=True).result({"path": Path("a/b"), "cosine": np.float32(0.5), "shape": np.array([2, 3])})
    assert json.loads(capsys.readouterr().out) == {"path": "a/b", "cosine": 0.5, "shape": [2, 3]}


def test_tables_align_numbers_on_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter().result([], Table(("name", "tokens"), [("a", 5), ("long name", 12345)]))
    assert capsys.readouterr().out == "name       tokens\n---------  ------\na               5\nlong name  12,345\n"
