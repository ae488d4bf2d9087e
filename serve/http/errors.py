"""`ErrorShape`: JSON and HTTP statuses of the errors of an API. The shape of OpenAI is the default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from fletcher.runtime.errors import FletcherError, InputError

from ..errors import UnknownModelError
from ..statuses import MOST_CHARACTERS, public_message, status_of

__all__ = ["OPENAI", "ErrorBody", "ErrorDetail", "ErrorShape", "field_of", "http_status"]


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Error object of the OpenAI API."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Body of an error in the OpenAI API."""

    error: ErrorDetail


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """Shape of the errors of an API.

    Attributes:
        status: returns the HTTP status of an error.
        encode: returns the body for an error and the id of the request.
        struct: struct of the body.
    """

    status: Callable[[FletcherError], int]
    encode: Callable[[FletcherError, str], bytes]
    struct: type[msgspec.Struct]


def field_of(error: FletcherError) -> str | None:
    """Return the field that an error names, or None."""
    if isinstance(error, UnknownModelError):
        return "model"
    field = error.field if isinstance(error, InputError) else None
    return field if field is None else field[:MOST_CHARACTERS]


def http_status(error: FletcherError) -> int:
    """Return the HTTP status of an error from `statuses.STATUSES`."""
    return status_of(error).http


def _encode(error: FletcherError, request_id: str) -> bytes:
    status = status_of(error)
    detail = ErrorDetail(message=public_message(error), type=status.kind, param=field_of(error), code=status.code)
    return msgspec.json.encode(ErrorBody(error=detail))


OPENAI = ErrorShape(http_status, _encode, ErrorBody)
