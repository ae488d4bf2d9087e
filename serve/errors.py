"""Errors of requests that are refused before the engine sees them. All are `InputError`s, with statuses of their own.

InputError
├── FieldError               a field of a request cannot be used; names it
│   ├── EmptyError           a list without an item
│   └── TooManyError         a list with more items than a request may have
├── UnknownModelError        the server has no model of that name
├── UnknownRouteError        there is nothing at that path, action or descriptor
├── MethodError              the path answers, but not to this HTTP method
├── TooLargeError            the body is larger than the server takes
├── SlowBodyError            the body did not arrive in time
├── MediaTypeError           the body is of a type or a coding that the route does not read
├── UnauthorizedError        an API key is needed, and there is none, or a wrong one
└── ForbiddenError           the caller is authenticated, but may not do this
"""

from __future__ import annotations

from collections.abc import Sequence

from fletcher.runtime.errors import InputError

__all__ = [
    "EmptyError",
    "FieldError",
    "ForbiddenError",
    "MediaTypeError",
    "MethodError",
    "SlowBodyError",
    "TooLargeError",
    "TooManyError",
    "UnauthorizedError",
    "UnknownModelError",
    "UnknownRouteError",
]


class FieldError(InputError):
    """A field of a request that cannot be used.

    Attributes:
        field: its name as the client wrote it, with indices (`input[3]`), or None if the whole body is meant.
    """

    def __init__(self, message: str, field: str | None) -> None:
        super().__init__(message)
        self.field = field


class EmptyError(FieldError):
    """A list without an item."""


class TooManyError(FieldError):
    """A list with more items than a request may have."""


class UnknownModelError(InputError):
    """The server has no model of that name."""


class UnknownRouteError(InputError):
    """There is nothing at that path, action or descriptor."""


class MethodError(InputError):
    """The path answers, but not to this HTTP method.

    Attributes:
        allowed: the methods that it answers to.
    """

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)


class TooLargeError(InputError):
    """The body is larger than the server takes."""


class SlowBodyError(InputError):
    """The body did not arrive in time."""


class MediaTypeError(InputError):
    """The body is of a type or a coding that the route does not read."""


class UnauthorizedError(InputError):
    """An API key is needed, and there is none, or a wrong one."""


class ForbiddenError(InputError):
    """The caller is authenticated, but may not do this."""
