"""Commands of `fletcher-serve keys`: manage the file of API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fletcher.runtime.commandline.console import reporter

__all__ = ["keys"]

KeysFile = Annotated[Path, typer.Option("--keys", metavar="FILE", help="File of API keys.")]

keys = typer.Typer(help="Manage the file of API keys, which holds names and hashes.", no_args_is_help=True)


@keys.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client that gets the key.")],
    file: KeysFile,
    admin: Annotated[bool, typer.Option("--admin", help="Allow the admin API with this key, too.")] = False,
) -> None:
    """Make a key and print it once. The file keeps only its hash."""
    from ..access.keys import add_key

    key = add_key(file, name, "admin" if admin else "user")
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode({"name": name, "key": key}).decode())
    else:
        typer.echo(key)


@keys.command("list")
def list_keys(ctx: typer.Context, file: KeysFile) -> None:
    """List the names and roles of the keys."""
    from ..access.keys import read_keys

    entries = [{"name": key.name, "role": key.role} for key in read_keys(file)]
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode(entries).decode())
        return
    for entry in entries:
        typer.echo(f"{entry['name']}\t{entry['role']}")


@keys.command("remove")
def remove(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client whose key is removed.")],
    file: KeysFile,
) -> None:
    """Remove a key. A running server reads the file again on SIGHUP."""
    from ..access.keys import remove_key

    remove_key(file, name)
