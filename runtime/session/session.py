"""`Session`: the interface of a loaded graph, whatever execution provider runs it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from ..batch import Batch
from .counters import Counters, DeviceMetric

__all__ = ["Session"]


class Session(Protocol):
    """A graph that is loaded and runs. Safe to call from several threads at once; a context manager that closes it.

    Sessions are subclasses and take over what does not concern them: one device, no fallback, nothing counted.

    Attributes:
        provider: title of the provider that really runs it (`Provider.title`), for people; several are joined by ` + `.
        devices: number of devices that compute its batches.
        fallback: reason why another provider runs than the one that was asked for; None if it is that one.
    """

    provider: str
    devices: int = 1
    fallback: str | None = None

    @abstractmethod
    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        """Compute one batch; the calling thread waits without the GIL.

        Args:
            batch: at least one row.
            output: name of one of the graph's outputs; None is the first.

        Returns:
            Values of the output's type, (n, …) in the order of the batch, or (tokens, …) where the output has a row a token.
        """
        ...

    @abstractmethod
    def close(self) -> None:
        """Release the memory; the session is unusable afterwards."""
        ...

    def counters(self) -> Counters:
        """Return what the session counts by itself."""
        return {}

    def metrics(self) -> Sequence[DeviceMetric]:
        """Return what each of its devices counts."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
