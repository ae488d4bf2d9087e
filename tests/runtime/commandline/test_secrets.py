"""Secrets come from files and the environment. A command line refuses them, and does not repeat them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from msgspec import Meta

from fletcher.runtime.commandline.console import make_app, run
from fletcher.runtime.commandline.struct_options import struct_options
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.secrets import read_secret
from fletcher.runtime.options.struct import Options


class Secrets(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    token: Annotated[str | None, Meta(description="A token.", extra={"secret": ""})] = None
    url: Annotated[str | None, Meta(description="A URL.", extra={"secret": "@"})] = None


def ask(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[object, list[Any]]:
    """Return the exit code of a command with these options, and the options that it got."""
    seen: list[Any] = []
    app = make_app("fletcher-test", "A test.")

    @app.command("go")
    @struct_options
    def go(ctx: typer.Context, options: Secrets = Secrets()) -> None:  # noqa: B008
        seen.append(options)

    @app.command("other")
    def other() -> None: ...

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as ended:
        run(app, ["go", *arguments])
    return ended.value.code, seen


@pytest.mark.parametrize("arguments", [["--token", "s3cret"], ["--url", "redis://:s3cret@host/0"]])
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, seen = ask(arguments, monkeypatch)
    captured = capsys.readouterr()
    assert code == 2 and not seen
    assert "s3cret" not in captured.out + captured.err
    assert f"{arguments[0]}-file FILE" in captured.err


def test_a_url_without_a_password_and_the_environment_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLETCHER_TEST_GO_TOKEN", "s3cret")
    monkeypatch.setenv("FLETCHER_GO_TOKEN", "s3cret")
    monkeypatch.setenv("FLETCHER_TOKEN", "s3cret")
    code, seen = ask(["--url", "redis://host/0"], monkeypatch)
    assert not code
    assert seen == [Secrets(token="s3cret", url="redis://host/0")]


def test_a_secret_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  s3cret \nsecond line\n")
    assert read_secret(None, str(file), "--token-file") == "s3cret"
    assert read_secret("value", None, "--token-file") == "value"
    for content in (b"", b"\n", b"\xff\n"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="--token-file"):
            read_secret(None, str(file), "--token-file")
    with pytest.raises(InputError, match=r"--token-file .* cannot be read"):
        read_secret(None, str(tmp_path / "absent"), "--token-file")
