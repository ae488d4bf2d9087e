"""Commands of `fletcher-serve cluster`: configurations for balancers, the state of all instances, and clusters of Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from fletcher.runtime.commandline.console import EXIT, reporter
from fletcher.runtime.commandline.struct_options import struct_options
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.options.load import LoadOptions
from fletcher.runtime.options.secrets import read_secret
from fletcher.runtime.remote.url import is_url

from ..cluster_ray.corpus.options import CorpusJob, CorpusOptions
from ..files.options import InputOptions
from ..longbow.options import LongbowOptions
from .options import Directory, require_packages, serve_packages

__all__ = ["cluster"]

#: Exit code of `status` if two instances serve different spaces under one name.
OTHER_SPACES: Final = 3

#: Scheme of a sink that is a dataset of Longbow.
LONGBOW: Final = ("grpc://", "grpc+tcp://", "grpc+tls://")

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


@cluster.command("serve")
def serve(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="CLUSTER.toml", help="File with the tables [ray] and [[ray.deployments]].")
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


@cluster.command("embed")
@struct_options
def embed(
    ctx: typer.Context,
    directory: Directory,
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Input: a file, a folder or a URL (s3://…), that every node can read."),
    ],
    sink: Annotated[
        str,
        typer.Argument(
            metavar="SINK",
            help="Output: a folder or a URL (s3://…), that every node can write, for Parquet files; or "
            "grpc://HOST:PORT/DATASET for Longbow.",
        ),
    ],
    inputs: InputOptions,
    corpus: CorpusOptions,
    options: EmbedOptions,
    load: LoadOptions = LoadOptions(),
) -> None:
    """Embed a corpus on a cluster of Ray, each row once. A job that was killed continues when it runs again.

    The input is divided into parts. An engine, which has a GPU or cores of its own, reads, embeds and writes a part as a
    whole. The files of the output sort in the order of the input. They have the columns of the input and `vector`.
    """
    report = reporter(ctx)
    require_packages("fletcher-serve cluster embed", "pyarrow")
    with serve_packages("fletcher-serve cluster embed"):
        from ..cluster_ray.run import run_corpus

    longbow = _longbow(sink)
    if corpus.id_column is not None and longbow is None:
        raise InputError("--id-column is for Longbow: files keep all columns of the input")
    artifact = directory if is_url(directory) else str(Path(directory).absolute())
    run_corpus(CorpusJob(artifact, source, sink, longbow, inputs, options, load, corpus), report)


def _longbow(sink: str) -> LongbowOptions | None:
    """Return Longbow's address and the dataset of a sink; None for files.

    Raises:
        InputError: the dataset is missing.
    """
    if not sink.startswith(LONGBOW):
        return None
    scheme, _, rest = sink.partition("://")
    address, _, dataset = rest.partition("/")
    if not dataset or "/" in dataset:
        raise InputError(f"{sink} is not grpc://HOST:PORT/DATASET: name the dataset")
    return LongbowOptions(longbow=f"{scheme}://{address}", dataset=dataset)
