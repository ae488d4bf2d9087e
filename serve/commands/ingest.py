"""`fletcher-serve ingest` and `search`: documents into Longbow, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fletcher.runtime.commandline.console import reporter

from .options import (
    LONGBOW_PANEL,
    TEXT_PANEL,
    AllowFallback,
    CacheSize,
    Directory,
    LongbowCa,
    LongbowDataset,
    LongbowTimeout,
    LongbowToken,
    LongbowUrl,
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
    from fletcher.runtime.embed_options import DType

__all__ = ["ingest", "search"]


def ingest(
    ctx: typer.Context,
    directory: Directory,
    source: Annotated[
        str,
        typer.Option(
            "--input", "-i", help="txt, jsonl, csv, parquet or Arrow file, a folder of documents, a URL (s3://…), or -."
        ),
    ],
    longbow: LongbowUrl,
    dataset: LongbowDataset,
    text_format: Annotated[
        str | None, typer.Option("--format", help="The input's format, where its name does not tell it.")
    ] = None,
    column: Annotated[str, typer.Option("--column", help="The key or column that holds the text.")] = "text",
    id_column: Annotated[
        str | None,
        typer.Option("--id-column", help="The column that says who a document is; its content (a folder: its path)."),
    ] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="What was sent; DATASET.journal here. Keep it: it is the resume.")
    ] = None,
    on_error: Annotated[
        str, typer.Option("--on-error", help="What a row that cannot be used does: skip or stop.")
    ] = "stop",
    dead_letters: Annotated[
        Path | None, typer.Option("--dead-letters", help="Where skipped rows go, as JSON lines; DATASET.failed.jsonl.")
    ] = None,
    remove_missing: Annotated[
        bool, typer.Option("--remove-missing", help="Delete documents of earlier runs that the input has no more.")
    ] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Where the journal is lost: read from the dataset what is there.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be sent.")] = False,
    text: Annotated[bool, typer.Option("--text/--no-text", help="Whether the texts go to Longbow too.")] = True,
    allow_unnormalized: Annotated[
        bool, typer.Option("--allow-unnormalized", help="Send vectors whose length is not 1: ranked by distance.")
    ] = False,
    input_type: Annotated[
        str | None, typer.Option("--input-type", rich_help_panel=TEXT_PANEL, help="What the texts are; document.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", rich_help_panel=TEXT_PANEL, help="Shorter vectors, as in embed.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", rich_help_panel=TEXT_PANEL, help="float32; float16 and int8 are widened and keep their rounding."
        ),
    ] = "float32",
    token: LongbowToken = None,
    ca_file: LongbowCa = None,
    timeout: LongbowTimeout = 30.0,
    metrics: Annotated[
        str | None,
        typer.Option("--longbow-metrics", rich_help_panel=LONGBOW_PANEL, help="http://HOST:9090/metrics, for pacing."),
    ] = None,
    streams: Annotated[int, typer.Option("--streams", min=1, rich_help_panel=LONGBOW_PANEL, help="At once.")] = 1,
    compression: Annotated[
        str, typer.Option("--compression", rich_help_panel=LONGBOW_PANEL, help="none, lz4 or zstd.")
    ] = "none",
    patience: Annotated[
        float,
        typer.Option("--patience", min=0, rich_help_panel=LONGBOW_PANEL, help="Seconds without an acknowledgement."),
    ] = 300.0,
    trace: Annotated[
        str, typer.Option("--trace", rich_help_panel=LONGBOW_PANEL, help="An id that calls and rows' metadata carry.")
    ] = "",
    variant: VariantName = None,
    provider: ProviderName = "auto",
    allow_fallback: AllowFallback = False,
    min_cosine: MinCosine = None,
    workers: Workers = None,
    token_budget: TokenBudget = None,
    memory_limit: MemoryLimit = None,
    cache: CacheSize = "0",
    chunk_size: Annotated[int, typer.Option("--chunk-size", min=1, help="Texts that are journaled at a time.")] = 1024,
) -> None:
    """Embeds documents and writes them to a dataset of Longbow, each once: killed and run again, it goes on.

    read = sent + known (from an earlier run) + duplicates + failed.
    """
    report = reporter(ctx)
    with serve_packages("fletcher-serve ingest"):
        from ..longbow.job.command import Job, Paths, run_job
        from ..longbow.job.summary import IngestOptions
        from ..longbow.wire.sink import SinkOptions
        from ..longbow.wire.target import Target
    from fletcher.runtime.embed_options import EmbedOptions

    job = Job(
        source=source,
        text_format=text_format,
        column=column,
        chunk_texts=chunk_size,
        target=Target(longbow, token, ca_file, timeout),
        dataset=dataset,
        paths=Paths.of(dataset, journal, dead_letters),
        on_error=on_error,
        options=IngestOptions(
            EmbedOptions(input_type, dimensions, cast("DType", dtype)),
            with_text=text,
            id_column=id_column,
            remove_missing=remove_missing,
            allow_unnormalized=allow_unnormalized,
            dry_run=dry_run,
            adopt=adopt,
        ),
        sink=SinkOptions(streams, compression, patience),
        metrics=metrics,
        trace=trace,
    )
    with open_encoder(
        directory, variant, provider, allow_fallback, min_cosine, workers, token_budget, memory_limit, cache
    ) as encoder:
        run_job(encoder, job, report)


def search(
    ctx: typer.Context,
    directory: Directory,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to search for.")],
    longbow: LongbowUrl,
    dataset: LongbowDataset,
    hits: Annotated[int, typer.Option("--hits", "-k", min=1, help="How many.")] = 5,
    input_type: Annotated[
        str, typer.Option("--input-type", rich_help_panel=TEXT_PANEL, help="Which prompt the text gets.")
    ] = "query",
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", rich_help_panel=TEXT_PANEL, help="As the dataset was made with.")
    ] = None,
    token: LongbowToken = None,
    ca_file: LongbowCa = None,
    timeout: LongbowTimeout = 30.0,
    variant: VariantName = None,
    provider: ProviderName = "auto",
) -> None:
    """Searches a dataset of Longbow for the texts nearest to one."""
    report = reporter(ctx)
    with serve_packages("fletcher-serve search"):
        from ..longbow.wire.search import search as find
        from ..longbow.wire.search import table
        from ..longbow.wire.target import Target

    target = Target(longbow, token, ca_file, timeout)
    with open_encoder(directory, variant, provider, False, None, None, None, None, "0") as encoder:
        found = find(encoder, target, dataset, text, k=hits, input_type=input_type, dimensions=dimensions)
    report.result(found, table(found))
