"""Requests that accept only the vectors of certain spaces (`If-Space`), and versions of one name that must agree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fletcher.runtime.inputs import TokenIds

from ..engine.embed_request import EmbedRequest
from ..errors import ConflictError, FieldError, SpaceError

if TYPE_CHECKING:
    from .spec import ModelSpec
    from .version import ModelVersion

__all__ = ["check_versions", "in_space", "read_spaces", "require_space", "space_of_request"]

#: Pattern of one identifier in `If-Space`.
IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def read_spaces(value: bytes) -> tuple[str, ...]:
    """Return the identifiers of `If-Space`: one or several with commas between them.

    Raises:
        FieldError: the value is not a list of identifiers.
    """
    text = value.decode("latin-1")
    spaces = tuple(part.strip().strip('"') for part in text.split(","))
    if not all(IDENTIFIER.fullmatch(space) for space in spaces):
        raise FieldError(
            f"If-Space is {text!r}: it must be an identifier that `/v1/space` or X-Space gives", "If-Space"
        )
    return spaces


def space_of_request(version: ModelVersion, request: EmbedRequest) -> str:
    """Return the identifier of the vectors that a version gives to a request."""
    return version.spaces.of(request.options, request.output, has_ids=isinstance(request.inputs, TokenIds))


def in_space(version: ModelVersion, request: EmbedRequest) -> bool:
    """Return whether the request accepts the vectors of a version."""
    return space_of_request(version, request) in request.terms.spaces


def require_space(version: ModelVersion, request: EmbedRequest) -> None:
    """Check that the request accepts the vectors of a version.

    Raises:
        SpaceError: it accepts only those of other spaces.
    """
    if not in_space(version, request):
        served = version.description
        raise SpaceError(
            f"{served.name}@{served.version} answers this request in the space {space_of_request(version, request)}, and the "
            f"request accepts only {', '.join(request.terms.spaces)}: vectors of two spaces cannot be compared. `/v1/space` "
            "says what the space consists of"
        )


def check_versions(versions: Iterable[tuple[ModelVersion, ModelSpec]]) -> None:
    """Check that the versions that answer under one name give vectors of one kind.

    A shadow, and a version with the weight 0, may differ: it answers only requests that name it.

    Args:
        versions: all versions, each with the specification that it will have.

    Raises:
        ConflictError: two versions have another output, another dimension, or another function to compare vectors with.
    """
    first: dict[str, ModelVersion] = {}
    for version, spec in versions:
        if spec.shadow or spec.weight <= 0:
            continue
        other = first.setdefault(spec.name, version).description
        ours = version.description
        for name, here, there in (
            ("output", ours.output, other.output),
            ("dimension", ours.dimension, other.dimension),
            ("similarity", ours.similarity, other.similarity),
        ):
            if here != there and None not in (here, there):
                raise ConflictError(
                    f"{spec.name}@{spec.version} has the {name} {here}, and {spec.name}@{other.version} has {there}: clients "
                    f"of {spec.name} would get both. Give one of them another name, the weight 0, or make it a shadow"
                )
