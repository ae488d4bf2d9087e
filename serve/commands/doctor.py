"""`fletcher-serve doctor`: compare this machine and a server's options with what production wants."""

from __future__ import annotations

from typing import Annotated

import typer

from fletcher.runtime.commandline.console import EXIT, reporter
from fletcher.runtime.commandline.struct_options import struct_options
from fletcher.runtime.options.load import LoadOptions

from ..models.remote.locations import Locations
from ..models.spec import SERVER_CACHE
from ..server_options import ServerOptions
from .options import Aliases, Directories, IdleSeconds, serve_packages, specs_of

__all__ = ["doctor"]


@struct_options
def doctor(
    ctx: typer.Context,
    directories: Directories = None,
    options: ServerOptions = ServerOptions(),
    idle_seconds: IdleSeconds = None,
    alias: Aliases = None,
    every: Annotated[bool, typer.Option("--all", help="Show the checks that found nothing wrong, too.")] = False,
    load: LoadOptions = LoadOptions(cache=SERVER_CACHE),
) -> None:
    """Check machine, container, limits, keys, caches, GPUs and artifacts for a server with these options.

    The options, the [run] table of the file of --config and the FLETCHER_RUN_… variables are those of run. Every finding
    has a severity and a fix. The exit code is 1 if there is an error or a warning.
    """
    report = reporter(ctx)
    with serve_packages("fletcher-serve doctor"):
        from ..doctor.subject import Subject
        from ..doctor.table import examine
        from ..surroundings import make_loader
    given = specs_of(ctx.obj.config, directories, options, load, aliases=alias, idle_seconds=idle_seconds)
    specs = ctx.with_resource(Locations().resolved(given))
    findings = list(examine(Subject(options=options, specs=specs, load=make_loader(options))))
    shown = [each for each in findings if every or report.as_json or each.severity != "ok"]
    if report.as_json:
        report.result(shown)
    else:
        for each in shown:
            report.line(f"{each.severity:8}{each.check}: {each.found}")
            if each.fix:
                report.line(f"{'':8}fix: {each.fix}")
    wrong = [each for each in findings if each.wrong]
    report.line(f"{len(findings)} findings, {len(wrong)} of them warnings or errors")
    if wrong:
        raise typer.Exit(EXIT.failure)
