"""`ModelSpec`: configuration of one version of a served model, from the command line, a TOML file or the admin API."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from fletcher.runtime import Artifact, LoadOptions
from fletcher.runtime.errors import InputError, OptionError
from fletcher.runtime.os_errors import explain
from fletcher.runtime.remote.url import is_url

__all__ = ["ModelSpec", "check_specs", "read_specs", "require_given"]

#: Size of the vector cache of a server's model.
SERVER_CACHE = "64MiB"


class ModelSpec(LoadOptions, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """`ModelSpec`: configuration of one version of a served model: its folder, names and share, and load options."""

    PANEL: ClassVar[str | None] = None

    path: Annotated[
        str,
        Meta(
            description="The artifact's folder, or the URL of an artifact or an alias. A relative path is relative to the "
            "TOML file."
        ),
    ]
    source: Annotated[
        str,
        Meta(
            description="URL from which the server got the folder of `path`. The server sets it; a specification leaves it "
            "out.",
            extra={"hidden": True},
        ),
    ] = ""
    name: Annotated[
        str, Meta(description="Name of the model in requests and answers. Default: the name of its card.")
    ] = ""
    aliases: Annotated[
        tuple[str, ...], Meta(description="Other names of the model, in addition to those of its card.")
    ] = ()
    version: Annotated[
        str,
        Meta(
            pattern="^[A-Za-z0-9._-]{1,64}$", description="Label of this version; requests can ask for `name@version`."
        ),
    ] = "1"
    weight: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1e6,
            description="Share of the requests that name no version, relative to the weights of the other versions.",
        ),
    ] = 1.0
    shadow: Annotated[
        bool,
        Meta(
            description="Send this version copies of requests only. Its answers are compared with the others and discarded."
        ),
    ] = False
    shadow_share: Annotated[
        float, Meta(ge=0.0, le=1.0, description="Share of the requests that are copied to a shadow.")
    ] = 1.0
    idle_seconds: Annotated[
        Annotated[float, Meta(ge=0.1)] | None,
        Meta(
            description="Seconds without a request after which the model's memory is released; the next request loads it "
            "again. Default: never."
        ),
    ] = None
    cache: Annotated[
        int | str,
        Meta(
            description="Size of the cache of vectors for repeated texts, in bytes or as text such as 64MiB; 0 turns it off.",
            extra={"metavar": "SIZE"},
        ),
    ] = SERVER_CACHE

    @property
    def key(self) -> tuple[str, str]:
        """Name and version. They identify a version in a server."""
        return self.name, self.version

    @property
    def settings(self) -> tuple[str, LoadOptions]:
        """Folder and load options. If one of them changes, the version must be loaded again."""
        return self.path, LoadOptions.of(self)

    def named(self) -> ModelSpec:
        """Return the specification with a name: its `name`, or the name of its card.

        Raises:
            ArtifactError: the folder is not an artifact.
        """
        if self.name:
            return self
        return msgspec.structs.replace(self, name=Artifact.open(Path(self.path)).manifest.card.name)


class _Table(msgspec.Struct, frozen=True):
    models: tuple[ModelSpec, ...] = ()


def read_specs(path: Path) -> list[ModelSpec]:
    """Return the `[[models]]` of a TOML file. Relative folders are relative to the file.

    Raises:
        InputError: the file cannot be read, is not TOML, or has an invalid option.
    """
    try:
        table = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Table)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    except OptionError as error:
        raise InputError(f"{path}: {error}") from None
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}; [[models]] has {', '.join(ModelSpec.__struct_fields__)}") from None
    return [
        spec if is_url(spec.path) else msgspec.structs.replace(spec, path=str(path.parent / spec.path))
        for spec in map(require_given, table.models)
    ]


def require_given(spec: ModelSpec) -> ModelSpec:
    """Return a specification that an operator wrote.

    Raises:
        OptionError: it has a field that only the server sets.
    """
    if spec.source:
        raise OptionError("source", "source is set by the server: write the URL as path")
    return spec


def check_specs(specs: Sequence[ModelSpec]) -> None:
    """Check that a server can serve these models.

    Raises:
        InputError: there is no model, two specifications have the same name and version, no version of a model answers, or a
            model has several shadows.
    """
    if not specs:
        raise InputError("a server needs at least one model")
    keys = [spec.key for spec in specs]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(
                f"two specifications have the name {key[0]!r} and the version {key[1]!r}: give them different versions"
            )
    for name in dict.fromkeys(name for name, _ in keys):
        versions = [spec for spec in specs if spec.name == name]
        if not any(spec.weight > 0 and not spec.shadow for spec in versions):
            raise InputError(
                f"no version of the model {name!r} answers: give one a weight above 0, and do not make it a shadow"
            )
        if sum(spec.shadow for spec in versions) > 1:
            raise InputError(f"the model {name!r} has several shadows: keep at most one")
