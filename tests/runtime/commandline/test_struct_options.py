"""Command line options from option structs: names, bounds, defaults, panels, and sources of values."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import pytest
import typer
import typer.main
from msgspec import Meta

from fletcher.runtime.commandline.console import make_app, reporter, run
from fletcher.runtime.commandline.struct_options import Without, struct_options
from fletcher.runtime.errors import OptionError
from fletcher.runtime.options.struct import Options


class Oven(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of an oven."""

    PANEL: ClassVar[str | None] = "Heat"

    degrees: Annotated[int, Meta(ge=0, le=300, description="Temperature in `degrees`.")]
    mode: Annotated[Literal["fan", "grill"], Meta(description="Source of heat.")] = "fan"
    hours: Annotated[Annotated[float, Meta(ge=0.5)] | None, Meta(description="Time. Default: until done.")] = None
    preheat: Annotated[bool, Meta(description="Heat before.")] = False
    light: Annotated[bool | None, Meta(description="Lamp. Default: by the door.")] = None
    lock: Annotated[bool, Meta(description="Lock of the door.")] = True
    size: Annotated[int | str, Meta(description="Volume.", extra={"metavar": "SIZE"})] = 0
    text_format: Annotated[str, Meta(description="Shape.", extra={"flags": ("--format", "-f"), "panel": "Look"})] = ""
    secret: Annotated[int, Meta(ge=1, description="Hidden.", extra={"hidden": True})] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_format == "star":
            raise OptionError("text_format", "text_format is 'star'")
        if self.light and self.size == "1L":
            raise OptionError("light", "light needs a lamp")


class Table(Options, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Options of a table, without a panel."""

    chairs: Annotated[int, Meta(ge=1, description="Number of chairs.")] = 4


WARM = Oven(degrees=60, size="1L", mode="grill", secret=9)

app = make_app("fletcher-try", "For tests.")


@app.command("bake")
@struct_options
def bake(
    ctx: typer.Context,
    dish: Annotated[str, typer.Argument(help="Dish.")],
    oven: Oven,
    table: Table,
    again: Annotated[bool, typer.Option("--again")] = False,
) -> None:
    """Bake a dish."""
    assert isinstance(oven, Oven) and isinstance(table, Table)
    values = {"dish": dish, "again": again, "chairs": table.chairs}
    reporter(ctx).result(values | msgspec.structs.asdict(oven))


@app.command("warm")
@struct_options
def warm(
    ctx: typer.Context,
    oven: Annotated[Oven, Without(("mode", "hours"))] = WARM,
) -> None:
    """Warm a dish."""
    reporter(ctx).result(msgspec.structs.asdict(oven))


DEFAULTS: dict[str, Any] = {
    "dish": "pie",
    "again": False,
    "chairs": 4,
    "degrees": 180,
    "mode": "fan",
    "hours": None,
    "preheat": False,
    "light": None,
    "lock": True,
    "size": "0",
    "text_format": "",
    "secret": 5,
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLETCHER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLETCHER_JSON", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which `run` sets


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(app, args)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def result(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    assert call(*args) == 0
    return json.loads(capsys.readouterr().out)


def usage_error(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert call(*args) == 2
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def parameters(command: str) -> dict[str, Any]:
    commands: Any = typer.main.get_command(app)
    return {param.name: param for param in commands.commands[command].params}


def test_defaults_are_those_of_the_struct(capsys: pytest.CaptureFixture[str]) -> None:
    assert result(capsys, "bake", "pie", "--degrees", "180") == DEFAULTS


def test_every_option_reaches_its_field(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--degrees 0 --mode grill --hours 0.5 --preheat --no-light --no-lock --size 2L -f round --chairs 2 --again"
    assert result(capsys, "bake", "pie", *words.split()) == {
        "dish": "pie",
        "again": True,
        "chairs": 2,
        "degrees": 0,
        "mode": "grill",
        "hours": 0.5,
        "preheat": True,
        "light": False,
        "lock": False,
        "size": "2L",
        "text_format": "round",
        "secret": 5,
    }
    assert result(capsys, "bake", "pie", "--degrees", "1", "--light", "--lock", "--format", "square") == {
        **DEFAULTS,
        "degrees": 1,
        "light": True,
        "text_format": "square",
    }


def test_names_of_the_options() -> None:
    names = {name: (param.opts, param.secondary_opts) for name, param in parameters("bake").items()}
    assert names == {
        "dish": (["dish"], []),
        "degrees": (["--degrees"], []),
        "mode": (["--mode"], []),
        "hours": (["--hours"], []),
        "preheat": (["--preheat"], []),
        "light": (["--light"], ["--no-light"]),
        "lock": (["--lock"], ["--no-lock"]),
        "size": (["--size"], []),
        "text_format": (["--format", "-f"], []),
        "chairs": (["--chairs"], []),
        "again": (["--again"], []),
    }


def test_help_metavars_and_panels() -> None:
    params = parameters("bake")
    assert params["degrees"].help == "Temperature in degrees."  # a terminal does not show the backquotes of Markdown
    assert params["mode"].metavar == "fan|grill"
    assert params["size"].metavar == "SIZE"
    panels = {name: param.rich_help_panel for name, param in params.items()}
    assert {panels[name] for name in ("degrees", "mode", "hours", "preheat", "light", "lock", "size")} == {"Heat"}
    assert panels["text_format"] == "Look"
    assert panels["chairs"] is None


def test_help_shows_bounds_defaults_and_panels(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bake", "--help") == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for text in ("─ Heat ─", "─ Look ─", "0<=x<=300", "x>=0.5", "x>=1", "[default: fan]", "[default: 4]", "[required]"):
        assert text in shown, text
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--degrees", "301"], "Invalid value for '--degrees': "),
        (["--degrees", "-1"], "Invalid value for '--degrees': "),
        (["--degrees", "hot"], "Invalid value for '--degrees': "),
        (["--degrees", "1", "--hours", "0.4"], "Invalid value for '--hours': "),
        (["--degrees", "1", "--chairs", "0"], "Invalid value for '--chairs': "),
        (["--degrees", "1", "--secret", "3"], "No such option"),
        ([], "Missing option '--degrees'"),
    ],
)
def test_wrong_values_are_usage_errors(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in usage_error(capsys, "bake", "pie", *words)


def test_values_that_only_the_struct_rejects_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    message = usage_error(capsys, "bake", "pie", "--degrees", "1", "--mode", "steam")
    assert "Usage: fletcher-try bake" in message
    assert "Invalid value for '--mode': mode is 'steam': use one of fan, grill" in message
    message = usage_error(capsys, "bake", "pie", "--degrees", "1", "-f", "star")
    assert "Invalid value for '--format' / '-f': text_format is 'star'" in message
    assert "Invalid value for '--light': light needs a lamp" in usage_error(capsys, "warm", "--light")


def test_the_default_of_the_parameter_gives_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    oven = msgspec.structs.asdict(WARM)
    assert result(capsys, "warm") == oven
    assert result(capsys, "warm", "--degrees", "70", "--preheat") == {**oven, "degrees": 70, "preheat": True}
    assert not parameters("warm")["degrees"].required


def test_omitted_fields_are_not_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert not {"mode", "hours"} & parameters("warm").keys()
    assert "No such option" in usage_error(capsys, "warm", "--mode", "fan")


def test_required_parameters_come_first() -> None:
    required = [param.required for param in parameters("bake").values()]
    assert required == sorted(required, reverse=True)


def test_environment_and_file_reach_the_fields(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "fletcher.toml"
    config.write_text('[bake]\ndegrees = 100\nlight = false\nlock = false\nhours = 1\nsize = 3\nformat = "round"\n')
    monkeypatch.setenv("FLETCHER_CONFIG", str(config))
    expected = DEFAULTS | {
        "degrees": 100,
        "light": False,
        "lock": False,
        "hours": 1.0,
        "size": "3",
        "text_format": "round",
    }
    assert result(capsys, "bake", "pie") == expected
    monkeypatch.setenv("FLETCHER_BAKE_DEGREES", "120")
    monkeypatch.setenv("FLETCHER_BAKE_LIGHT", "1")
    monkeypatch.setenv("FLETCHER_BAKE_CHAIRS", "6")
    monkeypatch.setenv("FLETCHER_BAKE_FORMAT", "flat")
    expected |= {"degrees": 120, "light": True, "chairs": 6, "text_format": "flat"}
    assert result(capsys, "bake", "pie") == expected
    assert result(capsys, "bake", "pie", "--degrees", "130", "--no-light") == {
        **expected,
        "degrees": 130,
        "light": False,
    }


@pytest.mark.parametrize("value", ["301", "-1", "hot"])
def test_wrong_values_of_the_environment_and_the_file_are_usage_errors(
    value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "fletcher.toml"
    config.write_text(f"[bake]\ndegrees = '{value}'\n")
    assert "--degrees" in usage_error(capsys, "bake", "pie", "--config", str(config))
    monkeypatch.setenv("FLETCHER_BAKE_DEGREES", value)
    assert "--degrees" in usage_error(capsys, "bake", "pie")
