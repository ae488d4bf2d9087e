"""`fletcher-serve run`: the server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from fletcher.runtime.commandline.console import reporter

from ..models.heap import few_arenas
from .options import (
    ENGINE_PANEL,
    LONGBOW_PANEL,
    AllowFallback,
    CacheSize,
    LongbowCa,
    LongbowToken,
    MemoryLimit,
    MinCosine,
    ProviderName,
    TokenBudget,
    VariantName,
    Workers,
    serve_packages,
)

if TYPE_CHECKING:
    from ..server import Server

__all__ = ["serve"]

#: Address that shuts a door.
OFF: Final = "off"

ACCESS_PANEL: Final = "Who may ask what"
WATCH_PANEL: Final = "What it tells of itself"


def serve(
    ctx: typer.Context,
    directories: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DIR...",
            help="Folders of artifacts; none where the file of --config has [[models]].",
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
    queue_seconds: Annotated[
        float,
        typer.Option(
            "--queue-seconds",
            min=0.01,
            rich_help_panel=ENGINE_PANEL,
            help="Refuse what would wait longer for its turn: 429, and when to come again.",
        ),
    ] = 30.0,
    queue_tokens: Annotated[
        int,
        typer.Option("--queue-tokens", min=1, rich_help_panel=ENGINE_PANEL, help="Tokens that may wait for a model."),
    ] = 1 << 20,
    idle_seconds: Annotated[
        float | None,
        typer.Option(
            "--idle-seconds",
            min=0.1,
            rich_help_panel=ENGINE_PANEL,
            help="Give a model's memory back after so long without a request; never if left out.",
        ),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            "--otlp",
            rich_help_panel=WATCH_PANEL,
            metavar="URL",
            help="Send traces to this OpenTelemetry collector, e.g. http://127.0.0.1:4318; OTEL_… variables say the rest.",
        ),
    ] = None,
    log_level: Annotated[
        str,
        typer.Option(
            "--log-level",
            rich_help_panel=WATCH_PANEL,
            help="debug (every request), info (refused ones, changes), warning or error.",
        ),
    ] = "info",
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
    """Serves artifacts over HTTP (OpenAI's, TEI's and Cohere's APIs) and Arrow Flight until SIGTERM or Ctrl+C.

    What was admitted before the signal is answered. With --json the addresses are one line of JSON on stdout. SIGHUP reads
    the API keys and the [[models]] of the TOML file again.
    """
    report = reporter(ctx)
    few_arenas()
    with serve_packages("fletcher-serve run"):
        from ..access.keys import Keys
        from ..http.call import Limits
        from ..longbow.wire.target import Target
        from ..models.spec import ModelSpec, read_specs
        from ..observe.logs import LEVELS
        from ..server import run_server
    from fletcher.runtime.errors import InputError
    from fletcher.runtime.memory.budget import parse_size

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

    if log_level not in LEVELS:
        raise InputError(f"--log-level is {log_level!r}: use {', '.join(LEVELS)}")
    tracing = None
    if otlp is not None:
        with serve_packages("--otlp"):
            from ..observe.tracing import Tracing
        tracing = Tracing.to(otlp)
    specs = wanted()
    if not specs:
        raise InputError("there is no model to serve: name a folder, or put [[models]] into the file of --config")
    run_server(
        specs,
        http=None if http == OFF else http,
        flight=None if flight == OFF else flight,
        drain_seconds=drain_seconds,
        max_queue_tokens=queue_tokens,
        max_wait_seconds=queue_seconds,
        limits=Limits(body_bytes=parse_size(max_body), items=max_items, tokens=max_tokens),
        keys=None if keys is None else Keys(keys),
        allow_anonymous=allow_anonymous,
        longbow=None if longbow is None else Target(longbow, longbow_token, longbow_ca),
        tracing=tracing,
        log_level=log_level,
        reread=wanted,
        on_listening=announce,
    )
