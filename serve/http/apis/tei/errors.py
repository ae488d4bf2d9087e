"""Errors of text-embeddings-inference (TEI): its JSON and its statuses."""

from __future__ import annotations

from typing import Literal

import msgspec

from fletcher.runtime.errors import FletcherError, InputError, ServiceError, TooLongError

from ....errors import EmptyError, TooManyError
from ....statuses import public_message
from ...errors import ErrorShape, field_of, http_status

__all__ = ["TEI", "TeiError"]

TeiErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiError(msgspec.Struct, frozen=True, kw_only=True):
    """Body of an error in text-embeddings-inference."""

    error: str
    error_type: TeiErrorType


def _status(error: FletcherError) -> int:
    """Return the status of TEI: 400 empty, 413 too large, 422 other invalid field, 424 backend failure, 429 overload."""
    if isinstance(error, EmptyError):
        return 400
    if isinstance(error, TooManyError | TooLongError):
        return 413
    status = http_status(error)
    if status == 500:
        return 424
    return 422 if status == 400 and field_of(error) is not None else status


def _encode(error: FletcherError, request_id: str) -> bytes:
    kind: TeiErrorType = "Validation"
    if _status(error) == 429:
        kind = "Overloaded"
    elif isinstance(error, EmptyError):
        kind = "Empty"
    elif isinstance(error, ServiceError):
        kind = "Unhealthy"
    elif not isinstance(error, InputError):
        kind = "Backend"
    elif type(error) is InputError:
        kind = "Tokenizer"
    return msgspec.json.encode(TeiError(error=public_message(error), error_type=kind))


TEI = ErrorShape(_status, _encode, TeiError)
