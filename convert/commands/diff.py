"""`fletcher-convert model diff`: compare the spaces of two artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.reporter import Table

from ..spaces import MEANINGS, diff_spaces, read_space

__all__ = ["diff_models"]


def diff_models(
    ctx: typer.Context,
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A", help="Folder of an artifact, or a saved answer of GET /v1/space.", show_default=False
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, to compare with A.", show_default=False)],
    variant: Annotated[str | None, typer.Option(help="Variant of A. Default: its first one.")] = None,
    other_variant: Annotated[
        str | None, typer.Option("--other-variant", metavar="VARIANT", help="Variant of B. Default: its first one.")
    ] = None,
) -> None:
    """Say why the vectors of two artifacts cannot be compared, component by component, or that they can.

    The command ends with 1 if the two have different spaces.
    """
    report = reporter(ctx)
    diff = diff_spaces(read_space(first, variant), read_space(second, other_variant))
    rows = [(one.component, _short(one.first), _short(one.second), MEANINGS[one.component]) for one in diff.differences]
    if report.as_json:
        report.result(diff)
    elif diff.equal:
        report.line(f"equal: {diff.first}. Vectors of the two can be compared")
    else:
        report.line(f"different: {diff.first} and {diff.second}. Vectors of the two cannot be compared")
        report.result(rows, Table(("component", "A", "B", "meaning"), rows))
    if diff.note:
        report.warn(diff.note)
    if not diff.equal:
        raise typer.Exit(1)


def _short(value: Any, length: int = 40) -> str:
    """Return a value for a table; a long one is cut, and `--json` has all of it."""
    text = value if isinstance(value, str) else repr(msgspec.to_builtins(value))
    return text if len(text) <= length else text[: length - 1] + "…"
