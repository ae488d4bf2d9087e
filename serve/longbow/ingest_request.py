"""Documents that clients send to Longbow through the server, and the answer. The module does not import pyarrow."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ..errors import UnknownRouteError

__all__ = ["MAX_DOCUMENTS", "Document", "IngestAnswer", "require"]

_T = TypeVar("_T")

#: Largest number of documents in one request. Use a bulk job for more.
MAX_DOCUMENTS = 2048


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document of a request.

    Attributes:
        text: text to embed.
        id: an integer below 2^32, or a name from which the id is derived; None derives it from the text.
        metadata: JSON object that is stored beside the vector.
    """

    text: str
    id: int | str | None = None
    metadata: dict[str, Any] | None = None


class IngestAnswer(msgspec.Struct, frozen=True):
    """Response to an ingest request: all rows are acknowledged.

    Attributes:
        dataset: name of the dataset in Longbow.
        ids: id of each document, in order.
        sent: number of rows that were sent; duplicates are not sent.
        duplicates: number of documents that are equal to an earlier one of the request.
        tokens: number of tokens that the model processed.
        space: identifier of the space of the vectors.
    """

    dataset: str
    ids: list[int]
    sent: int
    duplicates: int
    tokens: int
    space: str = ""


def require(door: _T | None) -> _T:
    """Return the connection to Longbow.

    Raises:
        UnknownRouteError: the server was started without Longbow.
    """
    if door is None:
        raise UnknownRouteError(
            "this server is not connected to Longbow: start it with fletcher-serve run DIR --longbow grpc://HOST:PORT"
        )
    return door
