"""`fletcher-serve retention`: show what Fletcher has written, and remove what is old."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.reporter import Table

__all__ = ["retention"]


def retention(
    ctx: typer.Context,
    artifacts: Annotated[
        list[Path] | None,
        typer.Option("--artifacts", metavar="DIR", help="Folder with artifacts. Can be given several times."),
    ] = None,
    journals: Annotated[
        list[Path] | None,
        typer.Option("--journals", metavar="DIR", help="Folder with journals of ingest. Can be given several times."),
    ] = None,
    audit: Annotated[
        list[Path] | None,
        typer.Option(
            "--audit", metavar="FILE", help="Audit log whose rotated files are looked at. Can be given several times."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="KIND=DAYS",
            help="Days since the last use for which a kind is kept, or forever. Can be given several times.",
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Remove what is due and not in use.")] = False,
) -> None:
    """Show where Fletcher has written what, how much, how old it is and how long it is kept.

    Nothing is removed without --apply. What a process uses, and the artifacts of the [[models]] of --config, always stay.
    """
    from fletcher.model_zoo.sources.cache import cache_folder

    from ..models.spec import read_specs
    from ..retention.places import Folders
    from ..retention.retention import apply as remove
    from ..retention.retention import read_days, survey

    report = reporter(ctx)
    days = read_days(keep or ())
    config = ctx.obj.config
    reserved = frozenset(Path(spec.path) for spec in read_specs(config)) if config else frozenset[Path]()
    folders = Folders(cache_folder(None), tuple(artifacts or ()), tuple(journals or ()), tuple(audit or ()))
    found = list(survey(folders, days, reserved))
    if apply:
        found = list(remove(found, reserved))
    rows = [
        (
            each.kind,
            each.path,
            f"{each.bytes / 1e6:,.1f} MB",
            f"{each.days:.0f}",
            "forever" if each.keep is None else f"{each.keep:g}",
            each.state,
        )
        for each in found
    ]
    report.result(found, Table(("kind", "path", "size", "days", "kept for days", "state"), rows))
    freed = sum(each.bytes for each in found if each.state in ("due", "removed"))
    report.line(f"{freed / 1e6:,.1f} MB {'removed' if apply else 'due; --apply removes them'}")
