"""Errors of the engine process in a front: a class by its name, with the same message."""

from __future__ import annotations

from collections.abc import Iterator

from fletcher.model_zoo.errors import FletcherError
from fletcher.runtime.errors import FailingError, OptionError, OverloadedError, ProviderError

from ... import errors as _errors  # noqa: F401 - its classes are subclasses of FletcherError
from ...statuses import retry_after
from .wire import Failure

__all__ = ["error_of", "failure_of"]

#: Classes with another constructor than a message alone.
_WITH_SECONDS = (OverloadedError, FailingError)


def _classes(kind: type[FletcherError]) -> Iterator[type[FletcherError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _classes(child)


def failure_of(number: int, error: BaseException) -> Failure:
    """Return the message for an error. An error of another library is a `ProviderError`, as in `Admission.settle`."""
    if not isinstance(error, FletcherError):
        return Failure(number, ProviderError.__name__, f"{type(error).__name__}: {error}", None)
    return Failure(number, type(error).__name__, str(error), retry_after(error))


def error_of(failure: Failure) -> FletcherError:
    """Return the error of a message; a class with a constructor of its own becomes its nearest ancestor without one."""
    kinds = {kind.__name__: kind for kind in _classes(FletcherError)}
    kind = kinds.get(failure.error, ProviderError)
    if issubclass(kind, _WITH_SECONDS):
        return kind(failure.text, 1.0 if failure.retry_after is None else failure.retry_after)
    while kind.__init__ is not Exception.__init__ and kind is not FletcherError:
        if issubclass(kind, OptionError):
            return OptionError("", failure.text)
        kind = kind.__mro__[1]
    return kind(failure.text)
