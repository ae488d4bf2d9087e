"""Errors of the engine process in a front: the same class, message and attributes."""

from __future__ import annotations

from fletcher.model_zoo.errors import FletcherError
from fletcher.runtime.errors import ProviderError

from .wire import Failure

__all__ = ["error_of", "failure_of"]


def failure_of(number: int, error: BaseException) -> Failure:
    """Return the message for an error. An error of another library is a `ProviderError`, as in `Admission.settle`."""
    if not isinstance(error, FletcherError):
        error = ProviderError(f"{type(error).__name__}: {error}")
    return Failure.of(error, id=number)


def error_of(failure: Failure) -> FletcherError:
    """Return the error of a message."""
    return failure.rebuilt() or ProviderError(failure.message)
