"""`fletcher-serve doctor`: it takes the options of `run`, and its exit code says whether something is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fletcher.runtime.commandline.console import run
from fletcher.runtime.errors import InputError
from fletcher.serve.commands.cli import SHARED, app
from fletcher.serve.doctor import table
from fletcher.serve.doctor.finding import Finding, advice, error, fine, warning
from fletcher.serve.doctor.subject import Subject
from fletcher.serve.tls.files import TlsFiles


@pytest.fixture
def subjects(monkeypatch: pytest.MonkeyPatch) -> list[Subject]:
    """Replace the checks by one that finds nothing, and return what was examined."""
    examined: list[Subject] = []

    def check(subject: Subject) -> Iterator[Finding]:
        examined.append(subject)
        yield fine("well")

    monkeypatch.setattr(table, "CHECKS", {"one": check})
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return examined


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, ["doctor", *arguments], shared=SHARED)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_it_takes_the_options_of_the_server(
    subjects: list[Subject], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        '[run]\nhttp = "127.0.0.1:1234"\nkeys = "a.json"\nidle_seconds = 5\n[[models]]\npath = "m"\nname = "m"\n'
    )
    monkeypatch.setenv("FLETCHER_RUN_KEYS", "b.json")
    assert call("--config", str(config), "--drain-seconds", "3") == 0
    (subject,) = subjects
    assert (subject.options.http, subject.options.keys, subject.options.drain_seconds) == (
        "127.0.0.1:1234",
        "b.json",
        3,
    )
    assert [spec.path for spec in subject.specs] == [str(tmp_path / "m")]


@pytest.mark.parametrize(
    ("finding", "code"), [(fine("a"), 0), (advice("a", "b"), 0), (warning("a", "b"), 1), (error("a", "b"), 1)]
)
def test_the_exit_code(
    finding: Finding, code: int, monkeypatch: pytest.MonkeyPatch, subjects: list[Subject], capsys: Any
) -> None:
    monkeypatch.setattr(table, "CHECKS", {"one": lambda subject: iter([finding])})
    assert call("--json") == code
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["check"], shown["severity"], shown["found"]) == ("one", finding.severity, "a")


def test_lines_leave_out_what_is_right(subjects: list[Subject], capsys: Any) -> None:
    assert call() == 0
    assert "well" not in capsys.readouterr().out
    assert call("--all") == 0
    assert "ok      one: well" in capsys.readouterr().out


def test_models_are_loaded_with_the_options_of_the_server(subjects: list[Subject], tiny_artifact: Path) -> None:
    assert call(str(tiny_artifact), "--require-verified", "--provider", "mlas") == 0
    (subject,) = subjects
    with pytest.raises(InputError, match="self-made"):
        subject.load(subject.specs[0])


def test_the_admin_address_and_the_files_of_tls_and_tokens_are_examined(subjects: list[Subject]) -> None:
    files = ("--tls-cert", "a.pem", "--tls-key", "a.key", "--tls-client-ca", "ca.pem", "--tls-client-crl", "crl.pem")
    assert call("--admin", "127.0.0.1:0", "--jwt", "jwt.toml", *files) == 0
    (subject,) = subjects
    assert (subject.options.admin, subject.options.jwt) == ("127.0.0.1:0", "jwt.toml")
    assert subject.options.tls_files == TlsFiles(
        Path("a.pem"), Path("a.key"), Path("ca.pem"), client_crl=Path("crl.pem")
    )
