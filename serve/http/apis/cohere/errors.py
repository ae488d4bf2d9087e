"""Errors of the Cohere API: its JSON, with the statuses from `statuses.STATUSES`."""

from __future__ import annotations

import msgspec

from fletcher.runtime.errors import FletcherError

from ....statuses import public_message
from ...errors import ErrorShape, http_status

__all__ = ["COHERE", "CohereError"]


class CohereError(msgspec.Struct, frozen=True, kw_only=True):
    """Body of an error in Cohere's API."""

    message: str
    id: str


def _encode(error: FletcherError, request_id: str) -> bytes:
    return msgspec.json.encode(CohereError(message=public_message(error), id=request_id))


COHERE = ErrorShape(http_status, _encode, CohereError)
