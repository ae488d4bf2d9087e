"""`fletcher-serve embed`: a file's texts to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fletcher.runtime.commandline.console import reporter

from .options import (
    TEXT_PANEL,
    AllowFallback,
    CacheSize,
    Directory,
    MemoryLimit,
    MinCosine,
    ProviderName,
    TokenBudget,
    VariantName,
    Workers,
    open_encoder,
    serve_packages,
)

if TYPE_CHECKING:
    from fletcher.runtime.embed_options import DType, Overflow

__all__ = ["embed"]


def embed(
    ctx: typer.Context,
    directory: Directory,
    source: Annotated[
        str, typer.Option("--input", "-i", help="txt, jsonl, csv, parquet or Arrow file; - is standard input.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy, .parquet or .arrow file.")],
    text_format: Annotated[
        str | None, typer.Option("--format", help="The input's format, where its name does not tell it.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="The key or column that holds the text.")] = "text",
    input_type: Annotated[
        str | None,
        typer.Option(
            "--input-type",
            rich_help_panel=TEXT_PANEL,
            help="What the texts are: query, document, clustering, classification, raw.",
        ),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions", rich_help_panel=TEXT_PANEL, help="Shorter vectors, where the model was trained for them."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", rich_help_panel=TEXT_PANEL, help="float32, float16, int8 or ubinary.")
    ] = "float32",
    overflow: Annotated[
        str,
        typer.Option(
            "--overflow",
            rich_help_panel=TEXT_PANEL,
            help="What happens to too long a text: truncate, truncate_left, refuse, windows (averaged), late (chunking).",
        ),
    ] = "truncate",
    window_tokens: Annotated[
        int | None,
        typer.Option("--window-tokens", rich_help_panel=TEXT_PANEL, help="Tokens of a window; the model's limit."),
    ] = None,
    overlap_tokens: Annotated[
        int | None,
        typer.Option("--overlap-tokens", rich_help_panel=TEXT_PANEL, help="That windows share; an eighth of one."),
    ] = None,
    chunk_tokens: Annotated[
        int | None, typer.Option("--chunk-tokens", rich_help_panel=TEXT_PANEL, help="Tokens of a late chunk; 256.")
    ] = None,
    variant: VariantName = None,
    provider: ProviderName = "auto",
    allow_fallback: AllowFallback = False,
    min_cosine: MinCosine = None,
    workers: Workers = None,
    token_budget: TokenBudget = None,
    memory_limit: MemoryLimit = None,
    cache: CacheSize = "64MiB",
    chunk_size: Annotated[
        int, typer.Option("--chunk-size", min=1, help="Texts read at a time; memory grows with it.")
    ] = 1024,
    force: Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")] = False,
) -> None:
    """Embeds every text of a file, in the file's order.

    A `.npy` output holds the vectors (n, dimension) as float32. A `.parquet` or `.arrow` output has the columns id (the
    row number, or the input's own), text, vector, and whatever else the input holds.
    """
    report = reporter(ctx)
    with serve_packages("fletcher-serve embed"):
        from ..files.embed_file import embed_file
        from ..files.texts import open_texts
    from fletcher.runtime.embed_options import EmbedOptions

    options = EmbedOptions(
        input_type,
        dimensions,
        cast("DType", dtype),
        cast("Overflow", overflow),
        window_tokens,
        overlap_tokens,
        chunk_tokens,
    )
    with (
        open_texts(source, text_format=text_format, column=column, chunk_texts=chunk_size) as texts,
        open_encoder(
            directory, variant, provider, allow_fallback, min_cosine, workers, token_budget, memory_limit, cache
        ) as encoder,
        report.progress("embedding", total=texts.total, units=("texts", "tokens")) as progress,
    ):
        summary = embed_file(
            encoder,
            texts,
            output,
            options=options,
            force=force,
            progress=progress,
        )
    if not summary.texts:
        report.warn(f"{texts.name} holds no text; {output} holds no vector")
    if summary.truncated_texts:
        report.warn(
            f"{summary.truncated_texts:,} of {summary.texts:,} texts were longer than {encoder.max_tokens} tokens and were "
            f"truncated: {summary.dropped_tokens:,} tokens have no part in the vectors"
        )
    report.result(summary)
