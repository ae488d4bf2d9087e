"""Commands of `fletcher-serve audit`: check the audit log, and show its head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fletcher.runtime.commandline.console import reporter

__all__ = ["audit"]

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="File of --audit, whose rotated files are found, or several files in the order of their lines.",
    ),
]

audit = typer.Typer(help="Check the audit log of a server.", no_args_is_help=True)


@audit.command("verify")
def verify(
    ctx: typer.Context,
    files: Files,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            metavar="SEQ:SHA256",
            help="Head that was kept elsewhere: the log must have had it. Can be given several times.",
        ),
    ] = None,
) -> None:
    """Find changed, missing, added and reordered lines. The command ends with 1 if there are any."""
    from fletcher.runtime.errors import InputError

    from ..audit.chain import read_head
    from ..audit.verify import files_of
    from ..audit.verify import verify as check

    paths = files_of(files[0]) if len(files) == 1 else files
    findings = check(paths, [read_head(text) for text in head or ()])
    if reporter(ctx).as_json:
        content = {
            "lines": findings.lines,
            "first": findings.first,
            "head": str(findings.head),
            "faults": findings.faults,
        }
        typer.echo(msgspec.json.encode(content).decode())
    else:
        for fault in findings.faults:
            typer.echo(fault)
        if not findings.faults:
            typer.echo(
                f"{findings.lines} lines from {findings.first} to {findings.head.seq} are as they were written; head "
                f"{findings.head}"
            )
    if findings.faults:
        raise InputError(f"the audit log is not as it was written: {findings.faults[0]}")


@audit.command("head")
def show_head(ctx: typer.Context, files: Files) -> None:
    """Print the head of the log, which `verify --head` takes. Keep it on another machine than the log."""
    from ..audit.verify import files_of
    from ..audit.verify import verify as check

    head = check(files_of(files[0]) if len(files) == 1 else files).head
    typer.echo(msgspec.json.encode({"head": str(head)}).decode() if reporter(ctx).as_json else str(head))
