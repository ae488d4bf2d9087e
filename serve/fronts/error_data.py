"""`ErrorData`: an error of one process of a server as data, and the same error in another process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import msgspec

from fletcher.model_zoo.errors import FletcherError

from .. import errors as _errors  # noqa: F401 - its classes are subclasses of FletcherError

__all__ = ["ErrorData"]


class ErrorData(msgspec.Struct, frozen=True):
    """An error as data.

    Attributes:
        error: name of the error's class.
        message: message of the error.
        ancestors: names of the classes from which the error's class derives, the nearest first.
        attributes: attributes of the error that JSON can hold.
    """

    error: str
    message: str
    ancestors: tuple[str, ...] = ()
    attributes: dict[str, Any] = {}

    @classmethod
    def of(cls, error: BaseException, **fields: Any) -> Self:
        """Return an error as data.

        Args:
            error: the error.
            fields: other fields of the message that carries it.
        """
        kinds = tuple(kind.__name__ for kind in type(error).__mro__)
        plain = {key: value for key, value in vars(error).items() if isinstance(value, str | int | float | None)}
        return cls(error=kinds[0], message=str(error), ancestors=kinds[1:], attributes=plain, **fields)

    def rebuilt(self) -> FletcherError | None:
        """Return an error of the same class, or of the nearest ancestor in Fletcher's tree; None if there is none."""
        classes = {kind.__name__: kind for kind in _tree(FletcherError)}
        kind = next((classes[name] for name in (self.error, *self.ancestors) if name in classes), None)
        if kind is None:
            return None
        error = kind.__new__(kind, self.message)
        error.args = (self.message,)
        vars(error).update(self.attributes)
        return error


def _tree(kind: type[FletcherError]) -> Iterator[type[FletcherError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
