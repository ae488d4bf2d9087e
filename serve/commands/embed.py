"""`fletcher-serve embed`: embed the texts of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.struct_options import struct_options
from fletcher.runtime.inputs import with_included
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.options.load import LoadOptions

from ..files.options import InputOptions, OutputOptions
from ..models.spec import SERVER_CACHE
from .options import Directory, ReportFile, check_options, local_folder, serve_packages

__all__ = ["embed"]


@struct_options
def embed(
    ctx: typer.Context,
    directory: Directory,
    source: Annotated[
        str,
        typer.Option("--input", "-i", help="Input: a txt, jsonl, csv, parquet or Arrow file, or - for standard input."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output: a .npy, .parquet or .arrow file.")],
    inputs: InputOptions,
    options: EmbedOptions,
    columns: OutputOptions,
    load: LoadOptions = LoadOptions(cache=SERVER_CACHE),
    report_file: ReportFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")] = False,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Space that the vectors must have, as /v1/space gives it. Default: any space is accepted.",
        ),
    ] = None,
) -> None:
    """Embed every text of a file, in the file's order.

    A `.npy` output holds the vectors, (n, dimension), in the type of --dtype, and a file NAME.npy.json beside it names their
    space. A `.parquet` or `.arrow` output has the columns
    id (the row number, or the id of the input), text, vector, and all other columns of the input; with --include also
    sparse (a list of index and weight) and token_vectors.
    """
    report = reporter(ctx)
    with serve_packages("fletcher-serve embed"):
        from ..files.embed_file import embed_file
        from ..files.page import embed_to_html
        from ..files.texts import open_texts
    from fletcher.runtime import Encoder
    from fletcher.runtime.commandline.report_files import check_suffixes, write_report

    check_suffixes([] if report_file is None else [report_file])
    folder = local_folder(ctx, directory, load.digest)
    check_options(folder, options, load)
    with (
        open_texts(
            source, text_format=inputs.text_format, column=inputs.column, chunk_texts=inputs.chunk_size
        ) as texts,
        Encoder.load(folder, load) as encoder,
        report.count("embedding", total=texts.total, units=("texts", "tokens")) as progress,
    ):
        requested = with_included(columns.include)
        summary = embed_file(
            encoder, texts, output, options=options, requested=requested, force=force, space=space, progress=progress
        )
    if not summary.texts:
        report.warn(f"{texts.name} has no text; {output} has no vector")
    if summary.truncated_texts:
        report.warn(
            f"{summary.truncated_texts:,} of {summary.texts:,} texts were longer than {encoder.info.max_tokens} tokens "
            f"and were truncated: {summary.dropped_tokens:,} tokens are not part of the vectors"
        )
    if report_file is not None:
        write_report(summary, report_file, lambda: embed_to_html(summary))
    report.result(summary)
