"""`fletcher-serve bench`: measure throughput, latency and memory, and compare other libraries."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.struct_options import Without, struct_options
from fletcher.runtime.options.load import LoadOptions

from .options import Directory, ReportFile, local_folder, serve_packages

__all__ = ["bench"]


@struct_options
def bench(
    ctx: typer.Context,
    directory: Directory,
    texts: Annotated[
        str | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="File of texts to measure with, in any format that embed reads.",
        ),
    ] = None,
    column: Annotated[str, typer.Option("--column", help="Key or column with the text.")] = "text",
    corpus: Annotated[
        str,
        typer.Option(
            "--corpus",
            help="Texts if --texts is not given: docstrings (about 50 tokens) or sentences (about 13).",
        ),
    ] = "docstrings",
    count: Annotated[int, typer.Option("--count", min=1, help="Largest number of texts.")] = 2000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds of each participant.")] = 3,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="NAME[=PYTHON]",
            help="Library to compare with Fletcher: sentence-transformers, sentence-transformers-onnx, -openvino, "
            "-openvino-f32, fastembed; PYTHON is the interpreter of another environment.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder of the original model, which peers load.")
    ] = None,
    picture: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot, .png or .svg.")] = None,
    report_file: ReportFile = None,
    load: Annotated[LoadOptions, Without(("allow_fallback", "cache"))] = LoadOptions(),
) -> None:
    """Measure throughput, latency and memory of an artifact on this machine. With --peer, compare other libraries.

    Each participant has a separate process. They take turns, so that a change of the machine's speed affects all of them.
    """
    report = reporter(ctx)
    with serve_packages("fletcher-serve bench"):
        from fletcher.runtime.corpora import CORPORA
        from fletcher.runtime.corpora import corpus as make_corpus

        from ..bench.page import bench_to_html
        from ..bench.results import plot, stages, table
        from ..bench.run import bench as measure
        from ..files.texts import open_texts
    from fletcher.runtime.commandline.report_files import check_suffixes, write_report
    from fletcher.runtime.errors import InputError
    from fletcher.runtime.providers.selection import check_provider

    check_provider(load.provider)
    check_suffixes([] if report_file is None else [report_file])
    if texts is not None:
        with open_texts(texts, text_format=None, column=column, chunk_texts=1024) as source:
            chosen = list(islice((text for chunk in source.chunks for text in chunk.texts), count))
    elif corpus in CORPORA:
        chosen = make_corpus(corpus, count)
    else:
        raise InputError(f"there is no corpus {corpus!r}: use {', '.join(CORPORA)}")
    results = measure(
        local_folder(ctx, directory, load.digest),
        chosen,
        corpus=texts or corpus,
        options=load,
        peers=peers or [],
        checkpoint=checkpoint,
        rounds=rounds,
        say=report.line,
    )
    if picture is not None:
        plot(results, picture)
    if report_file is not None:
        write_report(results, report_file, lambda: bench_to_html(results))
    report.result(results, table(results))
    if not report.as_json:
        fletcher = results.participants[0]
        report.line(fletcher.versions)
        report.line(stages(fletcher))
