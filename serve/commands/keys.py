"""Commands of `fletcher-serve keys`: manage the file of API keys."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fletcher.runtime.commandline.console import reporter

if TYPE_CHECKING:
    from ..access.key import Role

__all__ = ["keys"]

KeysFile = Annotated[Path, typer.Option("--keys", metavar="FILE", help="File of API keys.")]

keys = typer.Typer(help="Manage the file of API keys, which holds names, hashes and rights.", no_args_is_help=True)


@keys.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client that gets the key.")],
    file: KeysFile,
    admin: Annotated[bool, typer.Option("--admin", help="Allow the admin API with this key, too.")] = False,
    monitor: Annotated[bool, typer.Option("--monitor", help="Allow only metrics with this key.")] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="LIMIT",
            help="Limit of the client: requests=10/s, tokens=5000/s:20000 (with a burst), bytes=1000000/day, in_flight=8. "
            "Can be given several times. Default: the limits of the server.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="Model that the key may use. Can be repeated. Default: all."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="Dataset of Longbow that the key may write. Can be repeated. Default: all.",
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            "--route",
            metavar="PATH",
            help="Path that the key may call, such as /v1/embeddings, /v1/* or flight:exchange. Can be repeated. "
            "Default: all.",
        ),
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option("--priority", metavar="CLASS", help="Highest priority class of its requests. Default: all."),
    ] = None,
    days: Annotated[
        float | None, typer.Option("--days", min=0.0, help="Days after which the key is refused. Default: never.")
    ] = None,
    salt: Annotated[bool, typer.Option("--salt", help="Share no cache with other clients.")] = False,
) -> None:
    """Make a key and print it once. The file keeps only its hash and its rights."""
    from fletcher.runtime.errors import OptionError

    from ..access.keys_file import add_key
    from ..access.limits.quota import read_quota

    if admin and monitor:
        raise OptionError("monitor", "--admin and --monitor exclude each other: a key has one role")
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    role: Role = "admin" if admin else "monitor" if monitor else "user"
    key = add_key(
        file,
        name,
        role,
        limits=None if limit is None else read_quota(limit),
        models=None if model is None else tuple(model),
        datasets=None if dataset is None else tuple(dataset),
        routes=None if route is None else tuple(route),
        priority=priority,
        expires=expires,
        salt=salt,
    )
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode({"name": name, "key": key}).decode())
    else:
        typer.echo(key)


@keys.command("list")
def list_keys(ctx: typer.Context, file: KeysFile) -> None:
    """List names and roles of the keys, and when each was last used."""
    from ..access.keys_file import read_keys
    from ..access.last_use import read_last_use

    used = read_last_use(file)
    entries = [
        msgspec.to_builtins(key) | {"role": key.role, "last_use": _time(used.get(key.name))} for key in read_keys(file)
    ]
    for entry in entries:
        del entry["sha256"]
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode(entries).decode())
        return
    for entry in entries:
        typer.echo(f"{entry['name']}\t{entry['role']}\t{entry['last_use'] or 'never used'}")


def _time(seconds: float | None) -> str | None:
    """Return a time in the form of RFC 3339; None for no time."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@keys.command("remove")
def remove(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client whose key is removed.")],
    file: KeysFile,
) -> None:
    """Remove a key. A running server reads the file again on SIGHUP."""
    from ..access.keys_file import remove_key

    remove_key(file, name)
