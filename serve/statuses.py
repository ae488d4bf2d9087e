"""`STATUSES`: the HTTP and Flight statuses of each error class. A test checks that the table is complete.

Arrow Flight's servers (pyarrow 26) can send these gRPC codes only: INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED,
DEADLINE_EXCEEDED, UNAVAILABLE, UNAUTHENTICATED, PERMISSION_DENIED, CANCELLED, INTERNAL. There is no RESOURCE_EXHAUSTED
(`TransportStatusCode` in Arrow's cpp/src/arrow/flight/transport.h), so an overloaded server reports UNAVAILABLE there,
with the seconds to wait in the error's extra info.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fletcher.model_zoo.errors import (
    CardError,
    ChecksumError,
    FletcherError,
    RefusedError,
    SourceError,
    UnreachableError,
)
from fletcher.runtime.errors import (
    ArtifactError,
    CanaryError,
    CheckpointError,
    DeadlineError,
    DeviceLostError,
    DeviceMemoryError,
    FailingError,
    InputError,
    MissingPackageError,
    NotFiniteError,
    OptionError,
    OverloadedError,
    ProviderError,
    RetryError,
    ServiceError,
    SignatureError,
    StoppingError,
    TooLongError,
    VerificationError,
)

from .errors import (
    AuditError,
    ConflictError,
    EmptyError,
    FieldError,
    ForbiddenError,
    KeysPendingError,
    LimitStoreError,
    MediaTypeError,
    MethodError,
    RateLimitError,
    SlowBodyError,
    SpaceError,
    TooLargeError,
    TooManyError,
    UnauthorizedError,
    UnknownModelError,
    UnknownRouteError,
)

__all__ = ["MOST_CHARACTERS", "STATUSES", "FlightCode", "Status", "public_message", "retry_after", "status_of"]

FlightCode = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "INTERNAL",
]

#: Largest number of characters of a message, and of a name of a field, in an error.
MOST_CHARACTERS: Final = 2000

#: Seconds after which a client of a stopping server may try again. By then another server has had time to start.
STOPPING_RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class Status:
    """Statuses of an error class.

    Attributes:
        http: HTTP status code.
        kind: `type` of OpenAI's error object.
        code: `code` of OpenAI's error object.
        flight: gRPC status code on Arrow Flight.
    """

    http: int
    kind: str
    code: str | None
    flight: FlightCode


_BROKEN = Status(500, "server_error", "internal_error", "INTERNAL")
_UNREADY = Status(503, "server_error", "unavailable", "UNAVAILABLE")

STATUSES: Mapping[type[FletcherError], Status] = {
    FletcherError: _BROKEN,
    CardError: _BROKEN,
    SourceError: _BROKEN,
    RefusedError: _BROKEN,
    UnreachableError: _BROKEN,
    ChecksumError: _BROKEN,
    CheckpointError: _BROKEN,
    ArtifactError: _BROKEN,
    CanaryError: _UNREADY,
    SignatureError: _BROKEN,
    MissingPackageError: _BROKEN,
    ProviderError: Status(500, "server_error", "model_failed", "INTERNAL"),
    DeviceMemoryError: Status(503, "server_error", "model_failed", "UNAVAILABLE"),
    DeviceLostError: Status(503, "server_error", "model_failed", "UNAVAILABLE"),
    NotFiniteError: Status(500, "server_error", "model_failed", "INTERNAL"),
    VerificationError: _BROKEN,
    InputError: Status(400, "invalid_request_error", None, "INVALID_ARGUMENT"),
    OptionError: Status(400, "invalid_request_error", "invalid_value", "INVALID_ARGUMENT"),
    TooLongError: Status(400, "invalid_request_error", "context_length_exceeded", "INVALID_ARGUMENT"),
    FieldError: Status(400, "invalid_request_error", "invalid_value", "INVALID_ARGUMENT"),
    EmptyError: Status(400, "invalid_request_error", "invalid_value", "INVALID_ARGUMENT"),
    TooManyError: Status(400, "invalid_request_error", "invalid_value", "INVALID_ARGUMENT"),
    UnknownModelError: Status(404, "invalid_request_error", "model_not_found", "NOT_FOUND"),
    UnknownRouteError: Status(404, "invalid_request_error", "unknown_url", "NOT_FOUND"),
    MethodError: Status(405, "invalid_request_error", "method_not_allowed", "INVALID_ARGUMENT"),
    TooLargeError: Status(413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT"),
    SlowBodyError: Status(408, "invalid_request_error", "request_timeout", "INVALID_ARGUMENT"),
    MediaTypeError: Status(415, "invalid_request_error", "unsupported_media_type", "INVALID_ARGUMENT"),
    ConflictError: Status(409, "invalid_request_error", "conflict", "INVALID_ARGUMENT"),
    SpaceError: Status(412, "invalid_request_error", "other_space", "INVALID_ARGUMENT"),
    UnauthorizedError: Status(401, "authentication_error", "invalid_api_key", "UNAUTHENTICATED"),
    RateLimitError: Status(429, "rate_limit_error", "rate_limit_exceeded", "UNAVAILABLE"),
    ForbiddenError: Status(403, "permission_error", "forbidden", "PERMISSION_DENIED"),
    ServiceError: _UNREADY,
    RetryError: _UNREADY,
    OverloadedError: Status(429, "rate_limit_error", "overloaded", "UNAVAILABLE"),
    DeadlineError: Status(504, "server_error", "deadline_exceeded", "DEADLINE_EXCEEDED"),
    KeysPendingError: _UNREADY,
    AuditError: Status(503, "server_error", "audit_unavailable", "UNAVAILABLE"),
    LimitStoreError: Status(503, "server_error", "limits_unavailable", "UNAVAILABLE"),
    FailingError: Status(503, "server_error", "model_failing", "UNAVAILABLE"),
    StoppingError: Status(503, "server_error", "stopping", "UNAVAILABLE"),
}


def status_of(error: FletcherError) -> Status:
    """Return the status of an error's class, or of its nearest ancestor in the table."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return _BROKEN


def public_message(error: FletcherError) -> str:
    """Return the message for a client.

    Messages of the server's own failures can name files and providers, so only its log shows them. A message can repeat a
    name that the client has sent; it is cut, so that an error is not as long as a body.
    """
    if isinstance(error, InputError | ServiceError):
        message = str(error)
        return message if len(message) <= MOST_CHARACTERS else f"{message[:MOST_CHARACTERS]}…"
    return "the server failed on this request; its log has the details under this request's id"


def retry_after(error: FletcherError) -> float | None:
    """Return the seconds after which a retry may succeed, or None if a retry cannot succeed."""
    if isinstance(error, RetryError | RateLimitError):
        return error.retry_after
    return STOPPING_RETRY_AFTER if isinstance(error, StoppingError) else None
