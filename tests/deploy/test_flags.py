"""Every option, argument and variable that deploy/ names is one of the real command."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fletcher.runtime.commandline.console import run
from fletcher.runtime.options.struct import fields_of
from fletcher.serve.commands.cli import app
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

from .test_chart import NEEDED, objects
from .tooling import CHART, DEPLOY


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[ModelSpec], ServerOptions]]:
    """Replace the function that starts a server, and return what it was called with."""
    calls: list[tuple[list[ModelSpec], ServerOptions]] = []

    def run_server(specs: list[ModelSpec], options: ServerOptions, **_: Any) -> bool:
        calls.append((specs, options))
        return True

    monkeypatch.setattr("fletcher.serve.server.run_server", run_server)
    monkeypatch.setattr("fletcher.serve.commands.run.ignore_stop_signals", lambda: None)
    monkeypatch.setattr("fletcher.serve.commands.run.end_process", lambda code: None)  # threads of other tests
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return calls


def call(arguments: list[str]) -> None:
    """Run a command line, which must end well."""
    with pytest.raises(SystemExit) as caught:
        run(app, arguments)
    assert caught.value.code == 0, arguments


Started = list[tuple[list[ModelSpec], ServerOptions]]


def test_the_command_of_the_image(started: Started) -> None:
    (line,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    call(json.loads(line))
    ((specs, options),) = started
    assert (specs[0].path, options.keys) == ("/model", "/run/secrets/keys.json")


def test_the_command_of_compose(started: Started) -> None:
    services = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]
    call(services["fletcher"]["command"])
    ((_, options),) = started
    assert options.http == "0.0.0.0:8080" and options.drain_seconds == 30
    assert int(services["fletcher"]["stop_grace_period"].removesuffix("s")) > options.drain_seconds


def test_the_command_of_the_systemd_unit(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = (DEPLOY / "systemd" / "fletcher.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program.endswith("fletcher-serve")
    monkeypatch.setenv("FLETCHER_RUN_KEYS", "/run/credentials/keys.json")
    assert "FLETCHER_RUN_KEYS=%d/keys.json" in unit
    call([str(DEPLOY / "systemd" / "fletcher.toml") if each.endswith(".toml") else each for each in arguments])
    ((specs, options),) = started
    assert (specs[0].name, options.keys) == ("minilm", "/run/credentials/keys.json")
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop) == options.drain_seconds + options.lame_duck_seconds + 10


def test_every_value_of_the_chart_reaches_the_command(started: Started, tmp_path: Path) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["server"]["properties"]
    defaults = {field.name: field.default for field in fields_of(ServerOptions) if field.name in schema}
    given = {name: value for name, value in defaults.items() if value not in (None, ())}
    given |= {"queue_seconds": 2.5, "max_body": "8MiB", "cors_allow_origin": ["https://example.org"], "fronts": 0}
    config = objects({**NEEDED, "server": given}, tmp_path)["ConfigMap/web-fletcher"]["data"]["fletcher.toml"]
    (tmp_path / "fletcher.toml").write_text(config)
    call(["run", "--config", str(tmp_path / "fletcher.toml")])
    ((specs, options),) = started
    assert (options.queue_seconds, options.max_body, options.fronts) == (2.5, "8MiB", "0")
    assert options.cors_allow_origin == ("https://example.org",)
    assert (specs[0].path, specs[0].precision, specs[0].aliases) == ("/artifacts/minilm", "int8", ("a", "b"))


def test_commands_and_variables_in_texts_exist() -> None:
    help_texts: dict[str, set[str]] = {}
    for file in DEPLOY.rglob("*"):
        if file.is_dir() or file.suffix in (".json", ".lock", ".py", ".pyc") or file.is_symlink():
            continue
        text = file.read_text()
        for variable in re.findall(r"FLETCHER_RUN_([A-Z_]+)", text):
            assert variable.lower() in ServerOptions.__struct_fields__, f"{file}: {variable}"
        for command, options in re.findall(r"fletcher-serve (\w+)((?: \w+)? (?:--[\w-]+[^\n`]*))?", text):
            help_texts.setdefault(command, set()).update(re.findall(r"--[\w-]+", options))
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {str(group.name) for group in app.registered_groups}
    assert set(help_texts) - {"doctor"} <= known
