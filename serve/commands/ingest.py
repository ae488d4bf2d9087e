"""`fletcher-serve ingest` writes documents to Longbow, and `fletcher-serve search` searches them."""

from __future__ import annotations

from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.struct_options import struct_options
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.options.load import LoadOptions

from ..files.options import InputOptions
from ..longbow.options import IngestOptions, LongbowOptions, SinkOptions
from .options import Directory, ReportFile, check_options, local_folder, serve_packages

__all__ = ["ingest", "search"]


@struct_options
def ingest(
    ctx: typer.Context,
    directory: Directory,
    source: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            help="Input: a txt, jsonl, csv, parquet or Arrow file, a folder, a URL (s3://…), or - for standard input.",
        ),
    ],
    longbow: LongbowOptions,
    inputs: InputOptions,
    options: IngestOptions,
    embed: EmbedOptions,
    sink: SinkOptions,
    load: LoadOptions,
    report_file: ReportFile = None,
) -> None:
    """Embed documents and write them to a dataset of Longbow, each once. A job that was killed continues when it runs again.

    read = sent + known (from an earlier run) + duplicates + failed.
    """
    report = reporter(ctx)
    with serve_packages("fletcher-serve ingest"):
        from ..longbow.job.command import run_job
        from ..longbow.job.spec import Job
    from fletcher.runtime import Encoder
    from fletcher.runtime.commandline.report_files import check_suffixes

    check_suffixes([] if report_file is None else [report_file])
    folder = local_folder(ctx, directory, load.digest)
    check_options(folder, embed, load)
    job = Job(source, longbow, inputs, options, embed, sink)
    with Encoder.load(folder, load) as encoder:
        run_job(encoder, job, report, report_file)


@struct_options
def search(
    ctx: typer.Context,
    directory: Directory,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text to search for.")],
    longbow: LongbowOptions,
    hits: Annotated[int, typer.Option("--hits", "-k", min=1, help="Number of results.")] = 5,
    options: EmbedOptions = EmbedOptions(input_type="query"),
    load: LoadOptions = LoadOptions(),
) -> None:
    """Search a dataset of Longbow for the texts that are nearest to a text."""
    report = reporter(ctx)
    with serve_packages("fletcher-serve search"):
        from ..longbow.wire.search import search as find
        from ..longbow.wire.search import table
        from ..longbow.wire.target import Target
    from fletcher.runtime import Encoder

    folder = local_folder(ctx, directory, load.digest)
    check_options(folder, options, load)
    target = Target.of(longbow)
    with Encoder.load(folder, load) as encoder:
        results = find(encoder, target, longbow.dataset, text, k=hits, options=options)
    report.result(results, table(results))
