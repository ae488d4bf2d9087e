"""`fletcher-serve`: serve an artefact, or embed a file with it. Commands only say what is asked; the work is elsewhere.

pyarrow, the HTTP stack and onnxruntime are imported by the command that needs them: `--help` and completion stay quick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from fletcher.runtime.console import make_app, reporter, run
from fletcher.runtime.errors import MissingPackageError

__all__ = ["app", "main"]

app = make_app("fletcher-serve", "Text embeddings from a Fletcher artefact: a server, and bulk jobs.")

#: Address that shuts a door.
_OFF: Final = "off"

#: Packages of the extra `serve`.
_SERVE_PACKAGES: Final = frozenset({"httptools", "prometheus_client", "pyarrow", "uvicorn", "uvloop"})

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The artefact's folder, written by fletcher-convert.")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Threads that compute, each on one core; one per processor if left out.")
]
TokenBudget = Annotated[int | None, typer.Option("--token-budget", help="Tokens that a batch should hold.")]
VariantName = Annotated[
    str | None, typer.Option("--variant", help="Which of the artefact's graphs to run, e.g. cpu-fp32.")
]


@app.command("embed")
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
        typer.Option("--input-type", help="What the texts are: query, document, clustering, classification, raw."),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", help="Shorter vectors, where the model was trained for them.")
    ] = None,
    workers: Workers = None,
    token_budget: TokenBudget = None,
    variant: VariantName = None,
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
    with _serve_packages("fletcher-serve embed"):
        from .embed import embed_file
        from .textfiles import open_texts
    from fletcher.runtime import Encoder

    with (
        open_texts(source, text_format=text_format, column=column, chunk_texts=chunk_size) as texts,
        Encoder.load(directory, variant=variant, workers=workers, token_budget=token_budget) as encoder,
        report.progress("embedding", total=texts.total, units=("texts", "tokens")) as progress,
    ):
        summary = embed_file(
            encoder,
            texts,
            output,
            input_type=input_type,
            dimensions=dimensions,
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


@app.command("run")
def serve(
    ctx: typer.Context,
    directory: Directory,
    http: Annotated[
        str,
        typer.Option(
            "--http", metavar="HOST:PORT", help="Where HTTP listens; port 0 takes a free one, off is no HTTP."
        ),
    ] = "127.0.0.1:8080",
    flight: Annotated[
        str, typer.Option("--flight", metavar="HOST:PORT", help="Where Arrow Flight listens; as for HTTP.")
    ] = "127.0.0.1:8815",
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name in requests and answers; the card's if left out.")
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option("--drain-seconds", min=0, help="How long requests under way may take after the signal to stop."),
    ] = 30.0,
    workers: Workers = None,
    token_budget: TokenBudget = None,
    variant: VariantName = None,
) -> None:
    """Serves an artefact over HTTP (OpenAI's API) and Arrow Flight until SIGTERM or Ctrl+C.

    What was admitted before the signal is answered. With --json the addresses are one line of JSON on stdout.
    """
    report = reporter(ctx)
    with _serve_packages("fletcher-serve run"):
        from .server import Addresses, run_server
    from fletcher.runtime import Encoder
    from fletcher.runtime.heads import require

    def announce(addresses: Addresses) -> None:
        if report.as_json:
            typer.echo(msgspec.json.encode(addresses).decode())
        else:
            report.line(f"serving {name or encoder.card.name} ({encoder.variant.name} on {encoder.provider})")
            for door, url in (("HTTP", addresses.http), ("Flight", addresses.flight)):
                if url is not None:
                    report.line(f"{door} on {url}")
        sys.stdout.flush()

    with Encoder.load(directory, variant=variant, workers=workers, token_budget=token_budget) as encoder:
        require(encoder.card, "vectors")  # the server has no doors for rerankers, sparse or token vectors yet
        run_server(
            encoder,
            http=None if http == _OFF else http,
            flight=None if flight == _OFF else flight,
            model_name=name,
            drain_seconds=drain_seconds,
            on_listening=announce,
        )


@contextmanager
def _serve_packages(purpose: str) -> Iterator[None]:
    """Turns the absence of a package of the extra `serve` into the error that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _SERVE_PACKAGES:
            raise
        raise MissingPackageError(package, "serve", purpose) from error


def main() -> None:
    """The console script."""
    run(app)
