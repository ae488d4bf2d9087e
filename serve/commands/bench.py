"""`fletcher-serve bench`: throughput, latency and memory, beside peers."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter

from .options import Directory, MemoryLimit, MinCosine, ProviderName, TokenBudget, VariantName, Workers, serve_packages

__all__ = ["bench"]


def bench(
    ctx: typer.Context,
    directory: Directory,
    texts: Annotated[
        str | None,
        typer.Option("--texts", metavar="FILE", help="Texts to measure with, in any format that embed reads."),
    ] = None,
    column: Annotated[str, typer.Option("--column", help="The key or column that holds the text.")] = "text",
    corpus: Annotated[
        str,
        typer.Option("--corpus", help="Without --texts: docstrings (ragged, about 50 tokens) or sentences (about 13)."),
    ] = "docstrings",
    count: Annotated[int, typer.Option("--count", min=1, help="At most so many texts.")] = 2000,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each participant.")] = 3,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="NAME[=PYTHON]",
            help="Measure this beside Fletcher: sentence-transformers, sentence-transformers-onnx, -openvino, "
            "-openvino-f32, fastembed; PYTHON is the interpreter of another environment.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="The folder of the original model, which peers load.")
    ] = None,
    picture: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw a .png or .svg.")] = None,
    variant: VariantName = None,
    provider: ProviderName = "auto",
    min_cosine: MinCosine = None,
    workers: Workers = None,
    token_budget: TokenBudget = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Measures an artifact on this machine: throughput, latency, memory; on request beside its peers.

    Each participant has a process of its own, and they take turns, so that a machine that slows down slows all alike.
    """
    report = reporter(ctx)
    with serve_packages("fletcher-serve bench"):
        from fletcher.runtime.corpora import CORPORA
        from fletcher.runtime.corpora import corpus as make_corpus

        from ..bench.results import plot, stages, table
        from ..bench.run import bench as measure
        from ..files.texts import open_texts
    from fletcher.runtime.errors import InputError
    from fletcher.runtime.memory.budget import parse_size

    if texts is not None:
        with open_texts(texts, text_format=None, column=column, chunk_texts=1024) as source:
            chosen = list(islice((text for chunk in source.chunks for text in chunk.texts), count))
    elif corpus in CORPORA:
        chosen = make_corpus(corpus, count)
    else:
        raise InputError(f"there is no corpus {corpus!r}: use {', '.join(CORPORA)}")
    found = measure(
        directory,
        chosen,
        corpus=texts or corpus,
        options={
            "variant": variant,
            "provider": provider,
            "min_cosine": min_cosine,
            "workers": workers,
            "token_budget": token_budget,
            "memory_limit": None if memory_limit is None else parse_size(memory_limit),
        },
        peers=peers or [],
        checkpoint=checkpoint,
        rounds=rounds,
        say=report.line,
    )
    if picture is not None:
        plot(found, picture)
    report.result(found, table(found))
    if not report.as_json:
        ours = found.participants[0]
        report.line(ours.versions)
        report.line(stages(ours))
