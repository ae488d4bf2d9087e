"""Commands of `fletcher-serve cluster`: configurations for balancers and Prometheus, and the state of all instances."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from fletcher.runtime.commandline.console import EXIT, reporter
from fletcher.runtime.options.secrets import read_secret

from . import cluster_ray
from .options import require_packages

__all__ = ["cluster"]

#: Exit code of `status` if two instances serve different spaces under one name.
OTHER_SPACES: Final = 3

File = Annotated[
    Path, typer.Argument(metavar="CLUSTER.toml", help="File with the pools, their instances and the balancer.")
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", metavar="KEY", help="Key of the instances. An admin's reads everything.")
]
ApiKeyFile = Annotated[
    str | None,
    typer.Option("--api-key-file", metavar="FILE", help="File whose first line is the key. Default: no key."),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an instance.")]

cluster = typer.Typer(help="Several servers behind a balancer, or on a cluster of Ray.", no_args_is_help=True)
cluster.command("serve")(cluster_ray.serve)
cluster.command("embed")(cluster_ray.embed)


@cluster.command("config")
def config(
    ctx: typer.Context,
    kind: Annotated[
        Literal["haproxy", "envoy", "prometheus"], typer.Argument(help="Program whose configuration is written.")
    ],
    file: File,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write. Default: standard output.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Ask every instance first, and write nothing if one cannot get requests yet."),
    ] = False,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    timeout: Timeout = 5.0,
) -> None:
    """Write the configuration of HAProxy, Envoy or Prometheus for the instances of a cluster.toml."""
    require_packages("fletcher-serve cluster", "prometheus_client")
    from ..cluster.ask import Asker
    from ..cluster.check import check_cluster
    from ..cluster.config import read_cluster
    from ..cluster.envoy import envoy_config
    from ..cluster.haproxy import haproxy_config
    from ..cluster.prometheus import prometheus_config

    described = read_cluster(file)
    if check:
        key = read_secret(api_key, api_key_file, "--api-key-file")
        check_cluster(described, Asker.of(described.tls, key, timeout))
    text = {"haproxy": haproxy_config, "envoy": envoy_config, "prometheus": prometheus_config}[kind](described)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        reporter(ctx).line(f"{output} has the configuration of {kind}")


@cluster.command("status")
def status(
    ctx: typer.Context,
    file: File,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    timeout: Timeout = 5.0,
) -> None:
    """Show every instance with its models, versions, spaces, canaries, queue, GPUs and cache.

    The exit code is 1 if an instance cannot be reached, is not ready or lacks a model of its pool, and 3 if two instances
    serve different spaces under one name.
    """
    require_packages("fletcher-serve cluster", "prometheus_client")
    from ..cluster.ask import Asker
    from ..cluster.config import read_cluster
    from ..cluster.report import compare_instances, table_of
    from ..cluster.state import places, read_instances

    described = read_cluster(file)
    asker = Asker.of(described.tls, read_secret(api_key, api_key_file, "--api-key-file"), timeout)
    state = compare_instances(described, read_instances([*places(described)], asker))
    report = reporter(ctx)
    report.result(state, table_of(state))
    for line in (*state.spaces, *state.faults):
        report.warn(line)
    if not report.as_json:
        for line in (*state.artifacts, *state.unread):
            report.line(f"note: {line}")
    if state.spaces:
        raise typer.Exit(OTHER_SPACES)
    if state.faults:
        raise typer.Exit(EXIT.failure)
