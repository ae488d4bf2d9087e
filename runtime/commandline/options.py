"""Options that every command has, and values of options from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import typer.main

from ..os_errors import explain

__all__ = ["Settings", "common_options", "long_name"]


@dataclass(slots=True)
class Settings:
    """`Settings`: values of the common options. Each `run` has one, as the `obj` of typer's context.

    `shared` names, for commands that take the options of another command, that command.
    """

    prog: str
    as_json: bool = False
    debug: bool = False
    config: Path | None = None
    shared: Mapping[str, str] = field(default_factory=dict)


def _set_json(ctx: typer.Context, value: bool) -> None:
    ctx.obj.as_json |= value


def _set_debug(ctx: typer.Context, value: bool) -> None:
    ctx.obj.debug |= value


def _set_config(ctx: typer.Context, value: Path | None) -> None:
    """Read the table of the command. The option is eager, so this runs before the other options get their values."""
    if ctx.resilient_parsing:  # shell completion
        return
    if value is not None:
        ctx.obj.config = value
    if ctx.parent is not None and ctx.obj.config is not None:
        ctx.default_map = _read_table(ctx.obj.config, ctx)


_PANEL: Final = "Common options"


def _common(
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            callback=_set_json,
            expose_value=False,
            envvar="FLETCHER_JSON",
            rich_help_panel=_PANEL,
            help="Print the result as JSON on stdout, and everything else on stderr.",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            callback=_set_debug,
            is_eager=True,
            expose_value=False,
            envvar="FLETCHER_DEBUG",
            rich_help_panel=_PANEL,
            help="Show stack traces.",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            callback=_set_config,
            is_eager=True,
            expose_value=False,
            envvar="FLETCHER_CONFIG",
            metavar="FILE.toml",
            rich_help_panel=_PANEL,
            help="TOML file with values of options, in a table per command.",
        ),
    ] = None,
) -> None:
    """Declare the common options. Nothing calls this function."""


def common_options() -> list[Any]:
    """Return the common options as parameter objects of typer, for the `params` of a command.

    A temporary app creates them through the public API of typer, because the classes of the objects differ between its
    versions.
    """
    app = typer.Typer(add_completion=False)
    app.command()(_common)
    return typer.main.get_command(app).params


def long_name(param: Any) -> str | None:
    """Return the long name of an option without dashes, as in `token-budget`; None for an argument."""
    return next((option[2:] for option in param.opts if option.startswith("--")), None)


def _read_table(path: Path, ctx: typer.Context) -> dict[str, Any]:
    """Return the values of a command's options in a TOML file, by parameter name.

    Raises:
        typer.BadParameter: the file cannot be read, or the table is wrong.
    """
    words: list[str] = []
    context: Any = ctx
    while context.parent is not None:
        words.insert(0, ctx.obj.shared.get(str(context.info_name), str(context.info_name)))
        context = context.parent
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(explain(error), param_hint="--config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not a TOML file: {error}", param_hint="--config") from error
    for depth, word in enumerate(words):
        table = table.get(word, {})
        if not isinstance(table, dict):
            name = ".".join(words[: depth + 1])
            raise typer.BadParameter(f"{path}: {name} must be a table: [{name}]", param_hint="--config")
    names = {long_name(param) or param.name: param.name for param in ctx.command.params if param.expose_value}
    repeatable = {long_name(param) for param in ctx.command.params if getattr(param, "multiple", False)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = key.replace("_", "-") if key.replace("_", "-") in names else key
        if option not in names:
            close = get_close_matches(key, [str(name) for name in names], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its options are {', '.join(sorted(map(str, names)))}"
            raise typer.BadParameter(
                f"{path}: [{'.'.join(words)}] has no option {key!r}; {hint}", param_hint="--config"
            )
        # Typer converts text in the same way as a command line.
        if isinstance(value, list):
            values[str(names[option])] = [str(item) for item in value]
        elif option in repeatable:
            values[str(names[option])] = [str(value)]
        else:
            values[str(names[option])] = value if isinstance(value, bool) else str(value)
    return values
