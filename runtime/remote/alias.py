"""Aliases: small JSON objects, such as `models/prod.json`, that name the artifact which is in use now.

{"artifact": "minilm-2026-11", "digest": "sha256:…"}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fletcher.model_zoo.decode import decode_json

from ..errors import InputError, SourceError
from .store import WRITE_SECONDS, ObjectStore
from .url import ArtifactUrl

__all__ = ["Alias", "Target", "alias_path", "read_alias", "write_alias"]

#: Largest size of an alias in bytes.
LARGEST_ALIAS: Final = 64 << 10


class Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of an alias.

    Attributes:
        artifact: path of the artifact below the folder of the alias.
        digest: digest that the artifact must have; None accepts every digest.
    """

    artifact: str
    digest: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The artifact that an alias named when it was read.

    Attributes:
        url: URL of the artifact, below the folder of the alias.
        digest: digest that it must have, or None.
        version: version of the alias object, for `unless`.
    """

    url: ArtifactUrl
    digest: str | None
    version: str


def read_alias(url: ArtifactUrl, unless: str = "") -> Target | None:
    """Read an alias.

    Args:
        url: URL of the alias.
        unless: version that the caller knows; the server sends the alias only if it has another one.

    Returns:
        The artifact; None if the alias still has the version `unless`.

    Raises:
        InputError: the hub has no aliases.
        SourceError: there is no such alias, it is not JSON of an `Alias`, or it names something outside its folder.
        UnreachableError: the server does not answer.
        MissingPackageError: obstore is not installed.
    """
    if url.scheme == "hf":
        raise InputError(f"{url} is an alias on the hub: name a branch instead, hf://ORG/NAME@BRANCH")
    try:
        found = ObjectStore(url).read("", LARGEST_ALIAS, unless=unless)
    except FileNotFoundError:
        raise SourceError(
            f"the alias {url} does not exist: `fletcher-convert model push DIR URL --alias {url}` writes it"
        ) from None
    if found is None:
        return None
    try:
        alias = decode_json(found.data, Alias)
        return Target(_resolve(url, alias.artifact), alias.digest, found.version)
    except (msgspec.DecodeError, InputError) as error:
        raise SourceError(
            f"the alias {url} is damaged ({error}): it should be "
            '{"artifact": "NAME", "digest": "sha256:…"}, as `fletcher-convert model push --alias` writes it'
        ) from error


def alias_path(url: ArtifactUrl, artifact: ArtifactUrl) -> str:
    """Return the path by which an alias names an artifact.

    Args:
        url: URL of the alias.
        artifact: URL of the artifact, below the folder of the alias.

    Raises:
        InputError: the URL is not that of an alias, or the artifact is not below its folder.
    """
    if not url.is_alias or url.scheme == "hf":
        raise InputError(f"{url} is not the URL of an alias: use a name that ends with .json, in a bucket or a folder")
    if not artifact.is_below(url.parent):
        raise InputError(f"the alias {url} cannot name {artifact}: an alias names artifacts below its own folder")
    return "/".join(artifact.parts[len(url.parent.parts) :])


def write_alias(url: ArtifactUrl, artifact: ArtifactUrl, digest: str) -> None:
    """Let an alias name an artifact.

    Args:
        url: URL of the alias.
        artifact: URL of the artifact, below the folder of the alias.
        digest: digest of the artifact.

    Raises:
        InputError: as for `alias_path`.
        UnreachableError, SourceError: the server does not answer or refuses.
    """
    alias = Alias(artifact=alias_path(url, artifact), digest=f"sha256:{digest}")
    ObjectStore(url, silence=WRITE_SECONDS).put("", msgspec.json.encode(alias) + b"\n")


def _resolve(alias: ArtifactUrl, path: str) -> ArtifactUrl:
    """Return the URL of an alias's artifact.

    Raises:
        InputError: the path is not one of an artifact below the folder of the alias.
    """
    url = alias.parent.child(path)
    if url.is_alias or url == alias.parent:
        raise InputError(f"it names {path[:200]!a}, which is not an artifact")
    return url
