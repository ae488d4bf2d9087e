"""How each API says that something went wrong: its own JSON and its own statuses, over the one table of `statuses`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from fletcher.runtime.errors import FletcherError, InputError, OptionError, ServiceError, TooLongError

from ..errors import EmptyError, FieldError, TooManyError, UnknownModelError
from ..statuses import public_message, status_of
from .apis.openai.types import ErrorBody, ErrorDetail

__all__ = ["COHERE", "OPENAI", "TEI", "CohereError", "ErrorShape", "TeiError"]

TeiErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiError(msgspec.Struct, frozen=True, kw_only=True):
    """What text-embeddings-inference says of an error."""

    error: str
    error_type: TeiErrorType


class CohereError(msgspec.Struct, frozen=True, kw_only=True):
    """What Cohere says of an error."""

    message: str
    id: str


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """An API's errors.

    Attributes:
        status: the HTTP status of an error.
        encode: its body, given the request's id.
        struct: the body's shape.
    """

    status: Callable[[FletcherError], int]
    encode: Callable[[FletcherError, str], bytes]
    struct: type[msgspec.Struct]


def field_of(error: FletcherError) -> str | None:
    """The field that an error names."""
    if isinstance(error, FieldError | OptionError):
        return error.field
    return "model" if isinstance(error, UnknownModelError) else None


def _openai(error: FletcherError, request_id: str) -> bytes:
    status = status_of(error)
    detail = ErrorDetail(message=public_message(error), type=status.kind, param=field_of(error), code=status.code)
    return msgspec.json.encode(ErrorBody(error=detail))


def _tei_status(error: FletcherError) -> int:
    """TEI's own: 400 empty, 413 too much, 422 anything else about the request, 424 the backend, 429 overload."""
    if isinstance(error, EmptyError):
        return 400
    if isinstance(error, TooManyError | TooLongError):
        return 413
    status = status_of(error).http
    if status == 500:
        return 424
    return 422 if status == 400 and field_of(error) is not None else status


def _tei(error: FletcherError, request_id: str) -> bytes:
    status = _tei_status(error)
    kind: TeiErrorType = "Validation"
    if status == 429:
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


def _cohere(error: FletcherError, request_id: str) -> bytes:
    return msgspec.json.encode(CohereError(message=public_message(error), id=request_id))


def _status(error: FletcherError) -> int:
    return status_of(error).http


OPENAI = ErrorShape(_status, _openai, ErrorBody)
TEI = ErrorShape(_tei_status, _tei, TeiError)
COHERE = ErrorShape(_status, _cohere, CohereError)
