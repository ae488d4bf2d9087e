"""Errors of requests that the server rejects before the engine sees them, with separate statuses.

InputError
├── FieldError               a field of a request cannot be used; the error names it
│   ├── EmptyError           a list is empty
│   └── TooManyError         a list has more items than a request may have
├── UnknownModelError        the server has no model of that name
├── UnknownRouteError        the path, action or descriptor does not exist
├── MethodError              the path exists, but does not support this HTTP method
├── TooLargeError            the body is larger than the server accepts
├── SlowBodyError            the body did not arrive in time
├── ConflictError            a change of the models contradicts a model that is served
├── SpaceError               the vectors would be of another space than the request accepts
├── MediaTypeError           the route does not read the body's media type or content coding
├── UnauthorizedError        the request needs an API key, and has none or a wrong one
├── RateLimitError           the client is over one of its limits
└── ForbiddenError           the caller is authenticated, but may not do this

ServiceError
├── KeysPendingError         a signed token names a key that the server is fetching
└── RetryError
    ├── AuditError           the audit log cannot be written, and the server admits nothing without it
    └── LimitStoreError      the store of limits does not answer, and the server refuses what it cannot count
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from fletcher.runtime.errors import InputError, RetryError, ServiceError

__all__ = [
    "AuditError",
    "ConflictError",
    "EmptyError",
    "FieldError",
    "ForbiddenError",
    "KeysPendingError",
    "LimitStoreError",
    "MediaTypeError",
    "MethodError",
    "RateLimitError",
    "SlowBodyError",
    "SpaceError",
    "TooLargeError",
    "TooManyError",
    "UnauthorizedError",
    "UnknownModelError",
    "UnknownRouteError",
]


class FieldError(InputError):
    """A field of a request that cannot be used.

    Attributes:
        field: the field's name as the client wrote it, with indices (`input[3]`); None for an error of the whole body.
    """

    def __init__(self, message: str, field: str | None) -> None:
        super().__init__(message)
        self.field = field


class EmptyError(FieldError):
    """A list is empty."""


class TooManyError(FieldError):
    """A list has more items than a request may have."""


class UnknownModelError(InputError):
    """The server has no model of that name."""


class UnknownRouteError(InputError):
    """The path, action or descriptor does not exist."""


class MethodError(InputError):
    """The path exists, but does not support this HTTP method.

    Attributes:
        allowed: the methods that the path supports.
    """

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)


class TooLargeError(InputError):
    """The body is larger than the server accepts."""


class SlowBodyError(InputError):
    """The body did not arrive in time."""


class ConflictError(InputError):
    """A change of the models contradicts a model that is served."""


class SpaceError(InputError):
    """The vectors would be of another space than the request accepts."""


class MediaTypeError(InputError):
    """The route does not read the body's media type or content coding."""


class UnauthorizedError(InputError):
    """The request needs an API key, and has none or a wrong one."""


class RateLimitError(InputError):
    """The client is over one of its limits.

    Attributes:
        retry_after: seconds after which the request would be admitted.
        headers: names and values of the headers that tell the state of the limits.
    """

    def __init__(self, message: str, retry_after: float, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.headers = tuple(headers)


class LimitStoreError(RetryError):
    """The store of limits does not answer, and the server refuses what it cannot count (`--limit-store-down refuse`)."""


class KeysPendingError(ServiceError):
    """A signed token names a key that the server is fetching.

    Attributes:
        ready: done when the fetch has ended, with or without the key.
    """

    def __init__(self, message: str, ready: Future[None]) -> None:
        super().__init__(message)
        self.ready = ready


class AuditError(RetryError):
    """The audit log cannot be written, and the server admits nothing without it (`--audit-full stop`)."""


class ForbiddenError(InputError):
    """The caller is authenticated, but may not do this.

    Attributes:
        client: name of the caller's key; empty if it has none or the request's record has it already.
    """

    def __init__(self, message: str, client: str = "") -> None:
        super().__init__(message)
        self.client = client
