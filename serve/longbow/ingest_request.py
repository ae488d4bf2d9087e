"""Documents that clients send to Longbow through the server, and the answer. The module needs no pyarrow."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ..errors import UnknownRouteError

__all__ = ["MAX_DOCUMENTS", "Document", "IngestAnswer", "require"]

_T = TypeVar("_T")

#: Documents of one request: more belong into a bulk job.
MAX_DOCUMENTS = 2048


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document of a request.

    Attributes:
        text: what is embedded.
        id: a whole number below 2^32, or a name that one is derived from; None derives it from the text.
        metadata: kept beside the vector.
    """

    text: str
    id: int | str | None = None
    metadata: dict[str, Any] | None = None


class IngestAnswer(msgspec.Struct, frozen=True):
    """What became of a request's documents: they are acknowledged.

    Attributes:
        dataset: where they are.
        ids: of each document, in order.
        sent: rows; fewer than documents where some were the same.
        duplicates: documents that were the same as one before.
        tokens: that the model saw.
    """

    dataset: str
    ids: list[int]
    sent: int
    duplicates: int
    tokens: int


def require(door: _T | None) -> _T:
    """Return the server's way into Longbow.

    Raises:
        UnknownRouteError: the server has none.
    """
    if door is None:
        raise UnknownRouteError(
            "this server has no Longbow: start it with fletcher-serve run DIR --longbow grpc://HOST:PORT"
        )
    return door
