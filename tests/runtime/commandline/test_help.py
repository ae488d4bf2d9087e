"""Help texts of both tools: each command shows all its options, arguments and sentences, also square brackets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import typer.main

from fletcher.convert.commands.cli import app as convert_app
from fletcher.runtime.commandline.console import run
from fletcher.serve.commands.cli import app as serve_app

pytestmark = pytest.mark.heavy  # by the seconds that it computes

APPS = {"fletcher-convert": convert_app, "fletcher-serve": serve_app}

#: Characters between and around words of help texts: white space and the frames of panels, which wrap their contents.
FRAMES = re.compile(r"[\s│─╭╮╰╯]+")


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command and all its subcommands, each with its words on the command line."""
    yield words, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))


ALL = {
    " ".join((tool, *words)): (tool, words, command)
    for tool, app in APPS.items()
    for words, command in commands(typer.main.get_command(app))
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLETCHER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which `run` sets


def normalized(text: str) -> str:
    """Return the text without white space and frames, because narrow columns break long words."""
    return FRAMES.sub("", text)


def shown(tool: str, words: tuple[str, ...], columns: int, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stopped:
            run(APPS[tool], [*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def help_column(screen: str) -> str:
    """Return the help texts in the rows of the panels, in order.

    The first line of a row begins with the names of the option. Names and help are in separate columns, and both may wrap. So
    this function finds the position at which the last column begins, and joins the text from there on.
    """
    blocks = re.split(r"\n(?=╭)", screen)
    texts = []
    for block in blocks[1:]:
        lines = [line.strip("│") for line in block.splitlines() if line.startswith("│")]
        # The last column begins after the right-most blanks that all lines share.
        width = max(map(len, lines))
        blank = [all(len(line) <= place or line[place] == " " for line in lines) for place in range(width)]
        gaps = [place for place in range(2, width) if blank[place - 2] and blank[place - 1] and not blank[place]]
        texts.append(" ".join(line[gaps[-1] :] for line in lines) if gaps else " ".join(lines))
    return normalized(" ".join(texts))


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("name", ALL)
def test_help_is_complete(name: str, columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    tool, words, command = ALL[name]
    screen = shown(tool, words, columns, capsys)
    head = normalized(re.split(r"\n(?=╭)", screen)[0])
    assert command.help, f"{name} has no help"
    for sentence in re.split(r"(?<=[.:])\s+", command.help):
        assert normalized(sentence) in head, sentence
    column = help_column(screen)
    for param in command.params:
        assert param.help, f"{name}: {param.name} has no help"
        assert normalized(param.help) in column, param.help
    for word, child in getattr(command, "commands", {}).items():
        first = normalized(child.help.split("\n\n")[0])
        assert first in column, f"{word}: {first}"


def test_all_commands_are_checked() -> None:
    assert {
        "fletcher-convert model export",
        "fletcher-convert quantize sweep",
        "fletcher-serve embed",
        "fletcher-serve keys add",
        "fletcher-serve run",
    } <= ALL.keys()


@pytest.mark.parametrize(
    ("tool", "words", "text"),
    [
        ("fletcher-serve", ("run",), "the [[models]] of the file of --config"),
        ("fletcher-convert", ("model", "export"), "org/name[@revision]"),
    ],
)
def test_square_brackets_are_not_markup(
    tool: str, words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert normalized(text) in help_column(shown(tool, words, 200, capsys))
