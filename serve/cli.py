"""`fletcher-serve`: serve an artefact, or embed a file with it. Commands only say what is asked; the work is elsewhere.

pyarrow, the HTTP stack and onnxruntime are imported by the command that needs them: `--help` and completion stay quick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

import msgspec
import typer

from fletcher.runtime.console import make_app, reporter, run
from fletcher.runtime.errors import MissingPackageError

if TYPE_CHECKING:
    from fletcher.runtime import Encoder
    from fletcher.runtime.embed_options import DType, Overflow

__all__ = ["app", "main"]

app = make_app("fletcher-serve", "Text embeddings from a Fletcher artefact: a server, and bulk jobs.")

#: Address that shuts a door.
_OFF: Final = "off"

#: Packages of the extra `serve`.
_SERVE_PACKAGES: Final = frozenset({"cbor2", "httptools", "prometheus_client", "pyarrow", "uvicorn", "uvloop"})

ENGINE_PANEL: Final = "How it runs"
ACCESS_PANEL: Final = "Who may ask what"
TEXT_PANEL: Final = "How texts become vectors"

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The artefact's folder, written by fletcher-convert.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        rich_help_panel=ENGINE_PANEL,
        help="Batches computed at once, each on one core; measured if left out.",
    ),
]
TokenBudget = Annotated[
    int | None,
    typer.Option(
        "--token-budget", rich_help_panel=ENGINE_PANEL, help="Tokens that a batch should hold; measured if left out."
    ),
]
VariantName = Annotated[
    str | None,
    typer.Option(
        "--variant", rich_help_panel=ENGINE_PANEL, help="Which of the artefact's graphs to run, e.g. cpu-fp32."
    ),
]
ProviderName = Annotated[
    str,
    typer.Option(
        "--provider",
        rich_help_panel=ENGINE_PANEL,
        help="auto, mlas, openvino or openvino-bf16; `fletcher-serve devices DIR` shows what each does here.",
    ),
]
AllowFallback = Annotated[
    bool,
    typer.Option(
        "--allow-fallback", rich_help_panel=ENGINE_PANEL, help="Run on mlas where the provider fails, and say so."
    ),
]
MinCosine = Annotated[
    float | None,
    typer.Option(
        "--min-cosine",
        min=0.0,
        max=1.0,
        rich_help_panel=ENGINE_PANEL,
        help="How far from the reference auto may go for speed, e.g. 0.9999.",
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit", rich_help_panel=ENGINE_PANEL, metavar="SIZE", help="Most memory of the process, e.g. 2GB."
    ),
]
CacheSize = Annotated[
    str,
    typer.Option(
        "--cache",
        rich_help_panel=ENGINE_PANEL,
        metavar="SIZE",
        help="Vectors kept for texts that come again; 0 is none.",
    ),
]

LONGBOW_PANEL: Final = "Longbow"
LongbowUrl = Annotated[
    str, typer.Option("--longbow", metavar="URL", help="grpc://HOST:PORT of Longbow, or grpc+tls:// of a proxy.")
]
LongbowDataset = Annotated[str, typer.Option("--dataset", metavar="NAME", help="The dataset in Longbow.")]
LongbowToken = Annotated[
    str | None,
    typer.Option("--longbow-token", rich_help_panel=LONGBOW_PANEL, help="For a proxy that asks for one."),
]
LongbowCa = Annotated[
    Path | None,
    typer.Option("--longbow-ca", rich_help_panel=LONGBOW_PANEL, help="Certificates to trust, PEM; the system's."),
]
LongbowTimeout = Annotated[
    float, typer.Option("--timeout", min=0.1, rich_help_panel=LONGBOW_PANEL, help="Seconds that a call may take.")
]


def _load(
    directory: Path,
    variant: str | None,
    provider: str,
    allow_fallback: bool,
    min_cosine: float | None,
    workers: int | None,
    token_budget: int | None,
    memory_limit: str | None,
    cache: str,
) -> Encoder:
    """The encoder that the options ask for."""
    from fletcher.runtime import Encoder
    from fletcher.runtime.memory import parse_size

    return Encoder.load(
        directory,
        variant=variant,
        provider=provider,
        allow_fallback=allow_fallback,
        min_cosine=min_cosine,
        workers=workers,
        token_budget=token_budget,
        memory_limit=None if memory_limit is None else parse_size(memory_limit),
        cache_bytes=0 if cache == "0" else parse_size(cache),
    )


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
    with _serve_packages("fletcher-serve embed"):
        from .embed import embed_file
        from .textfiles import open_texts
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
        _load(
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


@app.command("run")
def serve(
    ctx: typer.Context,
    directories: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR...",
            help="Folders of artefacts; none where the file of --config has [[models]].",
            show_default=False,
        ),
    ] = None,
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
        str | None,
        typer.Option("--name", help="The only model's name in requests and answers; the card's if left out."),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option("--drain-seconds", min=0, help="How long requests under way may take after the signal to stop."),
    ] = 30.0,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", rich_help_panel=ACCESS_PANEL, help="Ask for the API keys of this file; see `keys add`."),
    ] = None,
    allow_anonymous: Annotated[
        bool,
        typer.Option(
            "--allow-anonymous", rich_help_panel=ACCESS_PANEL, help="Let other machines in without an API key."
        ),
    ] = False,
    max_body: Annotated[
        str, typer.Option("--max-body", rich_help_panel=ACCESS_PANEL, metavar="SIZE", help="Largest HTTP body.")
    ] = "32MiB",
    max_items: Annotated[
        int | None,
        typer.Option(
            "--max-items", min=1, rich_help_panel=ACCESS_PANEL, help="Most texts of a request; each API's own limit."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", min=1, rich_help_panel=ACCESS_PANEL, help="Most tokens of a request; no limit if left out."
        ),
    ] = None,
    idle_seconds: Annotated[
        float | None,
        typer.Option(
            "--idle-seconds",
            min=0.1,
            rich_help_panel=ENGINE_PANEL,
            help="Give a model's memory back after so long without a request; never if left out.",
        ),
    ] = None,
    longbow: Annotated[
        str | None,
        typer.Option(
            "--longbow",
            rich_help_panel=LONGBOW_PANEL,
            metavar="URL",
            help="grpc://HOST:PORT: where POST /v1/ingest and DoPut write to.",
        ),
    ] = None,
    longbow_token: LongbowToken = None,
    longbow_ca: LongbowCa = None,
    variant: VariantName = None,
    provider: ProviderName = "auto",
    allow_fallback: AllowFallback = False,
    min_cosine: MinCosine = None,
    workers: Workers = None,
    token_budget: TokenBudget = None,
    memory_limit: MemoryLimit = None,
    cache: CacheSize = "64MiB",
) -> None:
    """Serves artefacts over HTTP (OpenAI's, TEI's and Cohere's APIs) and Arrow Flight until SIGTERM or Ctrl+C.

    What was admitted before the signal is answered. With --json the addresses are one line of JSON on stdout. SIGHUP reads
    the API keys and the [[models]] of the TOML file again.
    """
    report = reporter(ctx)
    with _serve_packages("fletcher-serve run"):
        from .http_call import Limits
        from .keys import Keys
        from .longbow.target import Target
        from .model_spec import ModelSpec, read_specs
        from .server import Server, run_server
    from fletcher.runtime.errors import InputError
    from fletcher.runtime.memory import parse_size

    config = ctx.obj.config
    given = [
        ModelSpec(
            path=str(directory),
            name=name or "",
            variant=variant,
            provider=provider,
            allow_fallback=allow_fallback,
            min_cosine=min_cosine,
            workers=workers,
            token_budget=token_budget,
            memory_limit=memory_limit,
            cache=cache,
            idle_seconds=idle_seconds,
        )
        for directory in directories or []
    ]
    if name and len(given) != 1:
        raise InputError(
            f"--name is for one folder, and there are {len(given)}: name them in [[models]] of a TOML file"
        )

    def wanted() -> list[ModelSpec]:
        return [*given, *(read_specs(config) if config else [])]

    def announce(server: Server) -> None:
        if report.as_json:
            typer.echo(msgspec.json.encode(server.addresses).decode())
        else:
            for serving in server.models.serving:
                for version in serving.versions:
                    encoder = version.wake().encoder
                    report.line(f"serving {serving.name} ({encoder.variant.name} on {encoder.provider})")
                    report.line(encoder.fallback or encoder.reason)
            for door, url in (("HTTP", server.addresses.http), ("Flight", server.addresses.flight)):
                if url is not None:
                    report.line(f"{door} on {url}")
        sys.stdout.flush()

    specs = wanted()
    if not specs:
        raise InputError("there is no model to serve: name a folder, or put [[models]] into the file of --config")
    run_server(
        specs,
        http=None if http == _OFF else http,
        flight=None if flight == _OFF else flight,
        drain_seconds=drain_seconds,
        limits=Limits(body_bytes=parse_size(max_body), items=max_items, tokens=max_tokens),
        keys=None if keys is None else Keys(keys),
        allow_anonymous=allow_anonymous,
        longbow=None if longbow is None else Target(longbow, longbow_token, longbow_ca),
        reread=wanted,
        on_listening=announce,
    )


KeysFile = Annotated[Path, typer.Option("--keys", metavar="FILE", help="The file of keys.")]

keys_app = typer.Typer(help="API keys: a file of names and hashes.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


@keys_app.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    file: KeysFile,
    admin: Annotated[bool, typer.Option("--admin", help="It opens the admin API, too.")] = False,
) -> None:
    """Makes a key and prints it, once: the file keeps its hash alone."""
    from .keys import add_key

    key = add_key(file, name, "admin" if admin else "user")
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode({"name": name, "key": key}).decode())
    else:
        typer.echo(key)


@keys_app.command("list")
def list_keys(ctx: typer.Context, file: KeysFile) -> None:
    """Lists the keys' names and roles."""
    from .keys import read_keys

    found = [{"name": key.name, "role": key.role} for key in read_keys(file)]
    if reporter(ctx).as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    for key in found:
        typer.echo(f"{key['name']}\t{key['role']}")


@keys_app.command("remove")
def remove(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    file: KeysFile,
) -> None:
    """Removes a key; a running server notices on SIGHUP."""
    from .keys import remove_key

    remove_key(file, name)


@app.command("devices")
def devices(
    ctx: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="An artefact to measure here.", show_default=False)
    ] = None,
    variant: VariantName = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long measuring may take.")] = 20.0,
    min_cosine: MinCosine = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="Measure these alone, and remember nothing.")
    ] = None,
) -> None:
    """Lists what this machine has; with an artefact, measures it on each provider and says what auto takes.

    The measurements are remembered: later loads of that artefact on this machine take them.
    """
    report = reporter(ctx)
    from .devices import describe_machine, lines, measure_artifact, table

    if directory is None:
        found = describe_machine()
    else:
        found = measure_artifact(directory, variant=variant, seconds=seconds, min_cosine=min_cosine, providers=provider)
    if report.as_json:
        report.result(found)
        return
    for line in lines(found):
        report.line(line)
    if found.choice is not None:
        report.result(found, table(found))
        report.line(f"auto takes {found.choice.reason}")


@app.command("bench")
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
    """Measures an artefact on this machine: throughput, latency, memory; on request beside its peers.

    Each participant has a process of its own, and they take turns, so that a machine that slows down slows all alike.
    """
    report = reporter(ctx)
    with _serve_packages("fletcher-serve bench"):
        from fletcher.runtime.corpora import CORPORA
        from fletcher.runtime.corpora import corpus as make_corpus

        from .bench.results import plot, stages, table
        from .bench.run import bench as measure
        from .textfiles import open_texts
    from fletcher.runtime.errors import InputError
    from fletcher.runtime.memory import parse_size

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


@app.command("ingest")
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
    with _serve_packages("fletcher-serve ingest"):
        from .longbow.command import Job, Paths, run_job
        from .longbow.sink import SinkOptions
        from .longbow.summary import IngestOptions
        from .longbow.target import Target
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
    with _load(
        directory, variant, provider, allow_fallback, min_cosine, workers, token_budget, memory_limit, cache
    ) as encoder:
        run_job(encoder, job, report)


@app.command("search")
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
    with _serve_packages("fletcher-serve search"):
        from .longbow.search import search as find
        from .longbow.search import table
        from .longbow.target import Target

    target = Target(longbow, token, ca_file, timeout)
    with _load(directory, variant, provider, False, None, None, None, None, "0") as encoder:
        found = find(encoder, target, dataset, text, k=hits, input_type=input_type, dimensions=dimensions)
    report.result(found, table(found))


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
