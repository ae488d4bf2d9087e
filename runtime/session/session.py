"""`Session`: interface of a loaded graph on any execution provider."""

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
    """`Session`: loaded graph. Safe to call from several threads at once; a context manager that closes the session.

    Sessions are subclasses. They inherit the defaults: one device, no fallback, no counters and no metrics.

    Attributes:
        provider: title of the provider that runs the graph (`Provider.title`); several titles are joined by ` + `.
        devices: number of devices that compute batches.
        small_tokens: largest number of tokens of a batch that takes about as long as one text, because launches dominate; 0
            if a batch takes longer with every text. Two small batches at the same time delay one another.
        fallback: reason why another provider runs than the requested one; None if the requested one runs.
    """

    provider: str
    devices: int = 1
    small_tokens: int = 0
    fallback: str | None = None

    @abstractmethod
    def run(self, batch: Batch, output: str | None = None) -> NDArray[Any]:
        """Compute one batch. The calling thread waits without the GIL.

        Args:
            batch: at least one row.
            output: name of an output of the graph; None is the first output.

        Returns:
            Values of the output's type in the order of the batch: (n, …), or (tokens, …) if the output has one row per token.
        """
        ...

    @abstractmethod
    def close(self) -> None:
        """Release the memory. The session cannot be used afterwards."""
        ...

    def counters(self) -> Counters:
        """Return the counters of the session."""
        return {}

    def metrics(self) -> Sequence[DeviceMetric]:
        """Return the metrics of each device."""
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
