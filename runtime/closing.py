"""`Closing`: base class of objects that are closed when their `with` block ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["Closing"]


class Closing(ABC):
    """`Closing`: context manager for classes with a `close` method. Entering returns the object; leaving closes it."""

    __slots__ = ()

    @abstractmethod
    def close(self) -> None:
        """Release the resources of the object, which cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
