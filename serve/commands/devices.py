"""`fletcher-serve devices`: what this machine has, and what runs best on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter

__all__ = ["devices"]


def devices(
    ctx: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="An artifact to measure here.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Graph of the artifact to measure. Default: all that run here.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long measuring may take.")] = 20.0,
    min_cosine: Annotated[
        float | None,
        typer.Option(
            "--min-cosine",
            min=0.0,
            max=1.0,
            help="Smallest cosine with the reference that auto may accept. Default: the variant's own tolerance.",
        ),
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="Measure these alone, and remember nothing.")
    ] = None,
) -> None:
    """Lists what this machine has; with an artifact, measures it on each provider and says what auto takes.

    The measurements are remembered: later loads of that artifact on this machine take them.
    """
    report = reporter(ctx)
    from .device_report import describe_machine, lines, measure_artifact, table

    if directory is None:
        found = describe_machine()
    else:
        found = measure_artifact(directory, variant=variant, seconds=seconds, min_cosine=min_cosine, providers=provider)
    if report.as_json:
        report.result(found)
        return
    for line in lines(found):
        report.line(line)
    if found.choice is not None:
        report.result(found, table(found))
        report.line(f"auto takes {found.choice.reason}")
