"""Parts that several commands of `fletcher-serve` share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fletcher.runtime.commandline.console import reporter
from fletcher.runtime.errors import InputError, MissingPackageError
from fletcher.runtime.remote.url import is_url

from ..models.spec import ModelSpec, read_specs
from ..server_options import ServerOptions

if TYPE_CHECKING:
    from fletcher.runtime.options.embed import EmbedOptions
    from fletcher.runtime.options.load import LoadOptions

__all__ = [
    "Aliases",
    "Directories",
    "Directory",
    "IdleSeconds",
    "ReportFile",
    "check_options",
    "local_folder",
    "require_packages",
    "serve_packages",
    "specs_of",
]

#: Extra of Fletcher that installs a package, by the package's import name.
EXTRAS: Final = {
    **dict.fromkeys(["cbor2", "httptools", "orjson", "prometheus_client", "uvicorn", "uvloop", "zstandard"], "http"),
    "pyarrow": "flight",
    "opentelemetry": "otel",
}

Directory = Annotated[
    str, typer.Argument(metavar="DIR|URL", help="Folder of the artifact, written by fletcher-convert, or its URL.")
]

ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE", help="Write the result as a page (.html) or as JSON (.json). Default: none."
    ),
]


def local_folder(ctx: typer.Context, directory: str, digest: str | None = None) -> Path:
    """Return the folder of a command's artifact. A URL is downloaded, and its folder kept until the command ends.

    Args:
        ctx: the command's context.
        directory: folder or URL.
        digest: digest that the artifact must have; None accepts every digest.

    Raises:
        FletcherError: as for `locate`.
    """
    from fletcher.runtime.remote.locate import locate

    return ctx.with_resource(locate(directory, digest=digest, progress=reporter(ctx))).folder


# Options of a server besides those of `ServerOptions` and `LoadOptions`.
Directories = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DIR|URL...",
        help="Folders or URLs of artifacts, or URLs of aliases. Default: the [[models]] of the file of --config.",
        show_default=False,
    ),
]
IdleSeconds = Annotated[
    float | None,
    typer.Option(
        "--idle-seconds",
        min=0.1,
        help="Seconds without a request after which a model's memory is released. Default: never.",
    ),
]
Aliases = Annotated[
    list[str] | None,
    typer.Option(
        "--alias",
        metavar="NAME",
        help="Other name of the model, if there is only one; repeat it for several.",
    ),
]


def specs_of(
    config: Path | None,
    directories: Sequence[str] | None,
    options: ServerOptions,
    load: LoadOptions,
    *,
    aliases: Sequence[str] | None,
    idle_seconds: float | None,
) -> list[ModelSpec]:
    """Return the models of a command line and of a TOML file.

    Args:
        config: the TOML file, or None.
        directories: folders or URLs of artifacts.
        options: options of the server; `name` is the name of the only folder.
        load: options of loading the folders.
        aliases: other names of the only folder.
        idle_seconds: seconds without a request after which the memory of a folder's model is released.

    Raises:
        InputError: there are names and not one folder, or the file is invalid.
    """
    folders = directories or ()
    if (options.name or aliases) and len(folders) != 1:
        raise InputError(
            f"{'--name' if options.name else '--alias'} is for one folder, and there are {len(folders)}: name them in "
            "[[models]] of a TOML file"
        )
    names = {"name": options.name or "", "aliases": tuple(aliases or ()), "idle_seconds": idle_seconds}
    paths = [folder if is_url(folder) else str(Path(folder)) for folder in folders]
    specs = [ModelSpec.of(load, path=path, **names) for path in paths]
    return [*specs, *(read_specs(config) if config else [])]


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


def require_packages(purpose: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        MissingPackageError: one is not; the error names the extra.
    """
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # an import hook hides the package
            spec = None
        if spec is None:
            raise MissingPackageError(package, EXTRAS[package], purpose)


def check_options(directory: Path, options: EmbedOptions, load: LoadOptions) -> None:
    """Compare options with the artifact's manifest and with the providers, before a session is opened and a text is read.

    Late chunking passes if any variant can do it; the loaded encoder checks its own variant.

    Raises:
        ArtifactError: the folder is not an artifact.
        InputError: the provider is unknown, or the model does not give vectors.
        OptionError: the model does not support one of the options.
    """
    from fletcher.runtime import Artifact
    from fletcher.runtime.artifact.manifest import TOKEN_STATES
    from fletcher.runtime.model_info import require_output
    from fletcher.runtime.providers.selection import check_provider

    check_provider(load.provider)
    manifest = Artifact.open(directory).manifest
    require_output(manifest.card, "vectors")
    late = any(info.name == TOKEN_STATES for variant in manifest.variants for info in variant.outputs)
    options.check(manifest.card, late=late)
