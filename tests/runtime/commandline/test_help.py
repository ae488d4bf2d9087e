"""Every help text of both tools is shown whole: each option, each argument and each sentence, square brackets included."""

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

APPS = {"fletcher-convert": convert_app, "fletcher-serve": serve_app}

#: Characters that help texts have between and around words: the frames of panels, which wrap what is inside.
FRAMES = re.compile(r"[\s│─╭╮╰╯]+")


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command and all below it, with their words."""
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
    """The text without white space and frames: long words are broken where a column is narrow."""
    return FRAMES.sub("", text)


def shown(tool: str, words: tuple[str, ...], columns: int, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stopped:
            run(APPS[tool], [*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def help_column(screen: str) -> str:
    """The words of the panels' rows, in order.

    A row's first line begins with its names; its help may wrap, and the names may wrap too. Both stand between the frame's
    lines in columns of their own, so the text of the last column is cut out by the place at which it begins.
    """
    blocks = re.split(r"\n(?=╭)", screen)
    texts = []
    for block in blocks[1:]:
        lines = [line.strip("│") for line in block.splitlines() if line.startswith("│")]
        # The last column begins behind the right-most run of blanks that all lines share.
        width = max(map(len, lines))
        blank = [all(len(line) <= place or line[place] == " " for line in lines) for place in range(width)]
        gaps = [place for place in range(2, width) if blank[place - 2] and blank[place - 1] and not blank[place]]
        texts.append(" ".join(line[gaps[-1] :] for line in lines) if gaps else " ".join(lines))
    return normalized(" ".join(texts))


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("name", ALL)
def test_help_is_shown_whole(name: str, columns: int, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_all_commands_are_among_them() -> None:
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
