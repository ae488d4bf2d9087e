"""Parts that several commands of `fletcher-serve` share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from fletcher.runtime.errors import MissingPackageError

__all__ = ["Directory", "serve_packages"]

#: The extra that installs a package.
EXTRAS: Final = {
    **dict.fromkeys(["cbor2", "httptools", "prometheus_client", "pyarrow", "uvicorn", "uvloop"], "serve"),
    "opentelemetry": "otel",
}

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the artifact, written by fletcher-convert.")]


@contextmanager
def serve_packages(purpose: str) -> Iterator[None]:
    """Translate the absence of a package of an extra into the error that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingPackageError(package, EXTRAS[package], purpose) from error
