"""`fletcher-serve cluster serve` and `fletcher-serve cluster embed`: models on a cluster of Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter

from .options import require_packages, serve_packages

__all__ = ["cluster"]

cluster = typer.Typer(name="cluster", help="Serve and embed on several machines.", no_args_is_help=True)


@cluster.command("serve")
def serve(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="CLUSTER.toml", help="File with the tables [ray] and [[deployments]].")
    ],
    remove: Annotated[
        bool, typer.Option("--remove", help="End the deployments of the file, after their open requests.")
    ] = False,
) -> None:
    """Serve models from replicas on a cluster of Ray, behind Ray Serve's HAProxy.

    The command checks every node and loads the models once before it lets requests in. Run again, it changes what the file
    changed: models are exchanged inside the replicas, and replicas are replaced one after the other for other changes. With
    address = "local" it starts a cluster on this machine and serves until SIGTERM or Ctrl+C; SIGHUP reads the file again.
    With another address the deployments stay when the command ends.
    """
    from ..cluster_ray.options import read_ray_file

    content = read_ray_file(file)
    require_packages("fletcher-serve cluster serve", "cbor2", "orjson", "prometheus_client", "pyarrow", "zstandard")
    with serve_packages("fletcher-serve cluster serve"):
        from ..cluster_ray.run import remove_deployments, run_deployments
    if remove:
        remove_deployments(content, reporter(ctx))
    else:
        run_deployments(content, reporter(ctx), reread=lambda: read_ray_file(file))
