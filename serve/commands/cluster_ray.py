"""`fletcher-serve cluster serve` and `fletcher-serve cluster embed`: models on a cluster of Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.struct_options import struct_options
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.options.load import LoadOptions
from fletcher.runtime.remote.url import is_url

from ..cluster_ray.corpus.options import CorpusJob, CorpusOptions
from ..files.options import InputOptions
from ..longbow.options import LongbowOptions
from .options import Directory, require_packages, serve_packages

__all__ = ["embed", "serve"]

#: Scheme of a sink that is a dataset of Longbow.
LONGBOW = ("grpc://", "grpc+tcp://", "grpc+tls://")


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
