"""`fletcher-convert model push`, `pull` and `list URL`: artifacts in object stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.commandline.reporter import Reporter, Table

__all__ = ["pull_model", "push_model", "show_url"]


def push_model(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the artifact.", show_default=False)],
    url: Annotated[
        str, typer.Argument(metavar="URL", help="URL that it gets: s3://BUCKET/PATH, gs://, az:// or file://.")
    ],
    alias: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Alias that names the artifact afterwards, such as s3://BUCKET/prod.json; servers that follow it exchange "
            "their model. Default: no alias changes.",
        ),
    ] = None,
) -> None:
    """Upload an artifact. It is visible when all of it is there.

    A URL keeps the artifact that it has. Push a new version to a new URL, and let an alias name it.
    """
    from fletcher.runtime.remote.transfer import push

    report = reporter(ctx)
    report.result(push(folder, url, alias=alias, progress=report))


def pull_model(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="URL of the artifact or of an alias; also hf://ORG/NAME.")],
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder that it gets. An artifact in it is replaced.", show_default=False),
    ],
    digest: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Digest that the artifact must have. Default: any digest is accepted."),
    ] = None,
    require_signature: Annotated[
        str | None,
        typer.Option(
            metavar="IDENTITY",
            help="Signer of the artifact: key:PUBLIC_KEY.pem, certificate:ROOT.pem or sigstore:NAME,ISSUER. "
            "Default: no signature is required.",
        ),
    ] = None,
) -> None:
    """Download an artifact into a folder, and compare every byte with its manifest.

    The same command continues a download that was cut.
    """
    from fletcher.runtime.remote.transfer import pull

    report = reporter(ctx)
    report.result(pull(url, folder, digest=digest, signer=require_signature, progress=report))


def show_url(report: Reporter, url: str) -> None:
    """Print the artifacts and aliases below a URL."""
    from fletcher.runtime.remote.transfer import list_url

    found = list_url(url)
    rows = [
        (each.url, each.finding or each.model, each.digest[:12], each.bytes, "yes" if each.signed else "")
        for each in found
    ]
    report.result(found, Table(("URL", "model, or artifact of an alias", "digest", "bytes", "signed"), rows))
