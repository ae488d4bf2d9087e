"""Translation of the error tree to pyarrow's Flight exceptions, by the table of statuses."""

from __future__ import annotations

from typing import NoReturn

import msgspec
import pyarrow as pa
import pyarrow.flight as fl

from fletcher.runtime.errors import FletcherError

from ..errors import RateLimitError
from ..statuses import public_message, retry_after, status_of

__all__ = ["flight_error"]


class _Bare:
    """Base of the exceptions that pyarrow would otherwise send with their Python traceback, which includes file paths.

    pyarrow turns any exception that is not a `FlightError` into a status whose detail is `traceback.format_exception` of it,
    and falls back to the name of the class if that fails (PythonErrorDetail in arrow/python/common.cc). There is no
    `FlightError` for INVALID_ARGUMENT and NOT_FOUND, so these exceptions make `format_exception` fail.
    """

    @property
    def __cause__(self) -> NoReturn:
        raise AttributeError("this exception is not to be formatted")


class InvalidArgument(_Bare, pa.ArrowInvalid):  # type: ignore[misc]
    """Error with gRPC's status INVALID_ARGUMENT."""


class NotFound(_Bare, pa.ArrowKeyError):  # type: ignore[misc]
    """Error with gRPC's status NOT_FOUND."""


def flight_error(error: FletcherError) -> Exception:
    """Return the exception that a Flight handler raises for an error.

    Its extra info is JSON: the error's type, the seconds after which to retry, and the headers that HTTP would have about a
    limit.
    """
    message = public_message(error)
    code = status_of(error).flight
    if code == "INVALID_ARGUMENT":
        return InvalidArgument(message)
    if code == "NOT_FOUND":
        return NotFound(message)
    info: dict[str, object] = {"type": type(error).__name__}
    if (seconds := retry_after(error)) is not None:
        info["retry_after"] = seconds
    if isinstance(error, RateLimitError):
        info["headers"] = {name.decode(): value.decode() for name, value in error.headers}
    extra = msgspec.json.encode(info)
    classes: dict[str, type[Exception]] = {
        "UNAVAILABLE": fl.FlightUnavailableError,
        "UNAUTHENTICATED": fl.FlightUnauthenticatedError,
        "PERMISSION_DENIED": fl.FlightUnauthorizedError,
        "DEADLINE_EXCEEDED": fl.FlightTimedOutError,
        "INTERNAL": fl.FlightInternalError,
    }
    return classes[code](message, extra)
