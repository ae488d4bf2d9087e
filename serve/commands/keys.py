"""`fletcher-serve keys`: the file of API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fletcher.runtime.commandline.console import reporter

__all__ = ["keys"]

KeysFile = Annotated[Path, typer.Option("--keys", metavar="FILE", help="The file of keys.")]

keys = typer.Typer(help="API keys: a file of names and hashes.", no_args_is_help=True)


@keys.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    file: KeysFile,
    admin: Annotated[bool, typer.Option("--admin", help="It opens the admin API, too.")] = False,
) -> None:
    """Makes a key and prints it, once: the file keeps its hash alone."""
    from ..access.keys import add_key

    key = add_key(file, name, "admin" if admin else "user")
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode({"name": name, "key": key}).decode())
    else:
        typer.echo(key)


@keys.command("list")
def list_keys(ctx: typer.Context, file: KeysFile) -> None:
    """Lists the keys' names and roles."""
    from ..access.keys import read_keys

    found = [{"name": key.name, "role": key.role} for key in read_keys(file)]
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    for key in found:
        typer.echo(f"{key['name']}\t{key['role']}")


@keys.command("remove")
def remove(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    file: KeysFile,
) -> None:
    """Removes a key; a running server notices on SIGHUP."""
    from ..access.keys import remove_key

    remove_key(file, name)
