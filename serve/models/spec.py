"""What an operator says of a model: where it lies, its names, and how it runs; from arguments, TOML or the admin API."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from fletcher.runtime import Artifact
from fletcher.runtime.errors import InputError
from fletcher.runtime.os_errors import explain

__all__ = ["LoadSettings", "ModelSpec", "check_specs", "read_specs"]

Label = Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{1,64}$")]


class LoadSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How a model runs: the options of `fletcher-serve run`, which say what each means."""

    variant: str | None = None
    provider: str = "auto"
    allow_fallback: bool = False
    min_cosine: float | None = None
    workers: int | None = None
    token_budget: int | None = None
    memory_limit: str | None = None
    cache: str = "64MiB"


class ModelSpec(LoadSettings, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One version of a model.

    Attributes:
        path: the artifact's folder.
        name: what the model is called in requests and answers; empty is its card's name.
        aliases: other names for it, besides those of its card.
        version: this version's label; a request can ask for `name@version`.
        weight: its share of the requests that name no version, relative to the others'.
        shadow: whether it gets copies of requests instead, whose answers are compared and thrown away.
        shadow_share: of how many of the requests it gets copies.
        idle_seconds: after so long without a request its memory is given back until the next one; None is never.
    """

    path: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    version: Label = "1"
    weight: Annotated[float, Meta(ge=0.0, le=1e6)] = 1.0
    shadow: bool = False
    shadow_share: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    idle_seconds: Annotated[float, Meta(ge=0.1)] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What it is told apart by: name and version."""
        return self.name, self.version

    @property
    def settings(self) -> tuple[str, LoadSettings]:
        """What another load would be needed to change."""
        names = LoadSettings.__struct_fields__
        return self.path, LoadSettings(**{name: getattr(self, name) for name in names})

    def named(self) -> ModelSpec:
        """Itself with its card's name, where it has none.

        Raises:
            ArtifactError: the folder is no artifact.
        """
        if self.name:
            return self
        return msgspec.structs.replace(self, name=Artifact.open(Path(self.path)).manifest.card.name)


class _Table(msgspec.Struct, frozen=True):
    models: tuple[ModelSpec, ...] = ()


def read_specs(path: Path) -> list[ModelSpec]:
    """The `[[models]]` of a TOML file; relative folders are relative to it.

    Raises:
        InputError: the file cannot be read, or a model in it cannot be used as it is.
    """
    try:
        table = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _Table)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {explain(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}; [[models]] has {', '.join(ModelSpec.__struct_fields__)}") from None
    return [msgspec.structs.replace(spec, path=str(path.parent / spec.path)) for spec in table.models]


def check_specs(specs: Sequence[ModelSpec]) -> None:
    """
    Raises:
        InputError: no model, two of the same name and version, or a model without a version that answers.
    """
    if not specs:
        raise InputError("a server needs at least one model")
    keys = [spec.key for spec in specs]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"the model {key[0]!r} is there twice with the version {key[1]!r}: give each its own")
    for name in dict.fromkeys(name for name, _ in keys):
        versions = [spec for spec in specs if spec.name == name]
        if not any(spec.weight > 0 and not spec.shadow for spec in versions):
            raise InputError(f"no version of the model {name!r} would answer: one needs a weight above 0 and no shadow")
        if sum(spec.shadow for spec in versions) > 1:
            raise InputError(f"the model {name!r} has several shadows: it may have one")
