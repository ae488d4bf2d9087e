"""Errors of requests that the server rejects before the engine sees them. All are `InputError`s with separate statuses.

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
└── ForbiddenError           the caller is authenticated, but may not do this
"""

from __future__ import annotations

from collections.abc import Sequence

from fletcher.runtime.errors import InputError

__all__ = [
    "ConflictError",
    "EmptyError",
    "FieldError",
    "ForbiddenError",
    "MediaTypeError",
    "MethodError",
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


class ForbiddenError(InputError):
    """The caller is authenticated, but may not do this."""
