"""Errors of the Cohere API: its JSON, with the statuses from `statuses.STATUSES`."""

from __future__ import annotations

import msgspec

from fletcher.runtime.errors import FletcherError

from ....statuses import public_message
from ...errors import ErrorShape, http_status

__all__ = ["COHERE", "RANKING_ERRORS", "CohereError", "RankError"]


class CohereError(msgspec.Struct, frozen=True, kw_only=True):
    """Body of an error in Cohere's API."""

    message: str
    id: str


def _encode(error: FletcherError, request_id: str) -> bytes:
    return msgspec.json.encode(CohereError(message=public_message(error), id=request_id))


class RankError(CohereError, frozen=True, kw_only=True):
    """Body of an error of a ranking: that of Cohere, and the field that the clients of Jina and Voyage read."""

    detail: str


def _encode_rank(error: FletcherError, request_id: str) -> bytes:
    message = public_message(error)
    return msgspec.json.encode(RankError(message=message, id=request_id, detail=message))


COHERE = ErrorShape(http_status, _encode, CohereError)
RANKING_ERRORS = ErrorShape(http_status, _encode_rank, RankError)
