"""Options that several commands of `fletcher-serve` have, and how they open an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fletcher.runtime.errors import MissingPackageError

if TYPE_CHECKING:
    from fletcher.runtime import Encoder

__all__ = [
    "ENGINE_PANEL",
    "LONGBOW_PANEL",
    "TEXT_PANEL",
    "AllowFallback",
    "CacheSize",
    "Directory",
    "LongbowCa",
    "LongbowDataset",
    "LongbowTimeout",
    "LongbowToken",
    "LongbowUrl",
    "MemoryLimit",
    "MinCosine",
    "ProviderName",
    "TokenBudget",
    "VariantName",
    "Workers",
    "open_encoder",
    "serve_packages",
]

#: The extra that brings a package.
EXTRAS: Final = {
    **dict.fromkeys(["cbor2", "httptools", "prometheus_client", "pyarrow", "uvicorn", "uvloop"], "serve"),
    "opentelemetry": "otel",
}

ENGINE_PANEL: Final = "How it runs"
TEXT_PANEL: Final = "How texts become vectors"

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The artifact's folder, written by fletcher-convert.")]
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
        "--variant", rich_help_panel=ENGINE_PANEL, help="Which of the artifact's graphs to run, e.g. cpu-fp32."
    ),
]
ProviderName = Annotated[
    str,
    typer.Option(
        "--provider",
        rich_help_panel=ENGINE_PANEL,
        help="Name of the provider that computes, as `fletcher-serve devices` lists them, or auto, which takes the fastest.",
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


def open_encoder(
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
    from fletcher.runtime.memory.budget import parse_size

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


@contextmanager
def serve_packages(purpose: str) -> Iterator[None]:
    """Turns the absence of a package of an extra into the error that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingPackageError(package, EXTRAS[package], purpose) from error
