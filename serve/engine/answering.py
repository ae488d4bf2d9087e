"""`AnsweringEngine`: the part of an engine that `Models` and the front ends use.

`Engine` computes in this process; `RemoteEngine` sends rows to another process.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from ..observe.metrics import Metrics
from .backend import Backend
from .embed_request import EmbedRequest
from .rows_request import RowsRequest

if TYPE_CHECKING:
    from ..observe.requests import RecordDraft

__all__ = ["AnsweringEngine"]


class AnsweringEngine(Protocol):
    """Requests in, futures of answers out. Safe to use from any thread."""

    @property
    def backend(self) -> Backend:
        """Return the model."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Return the counts."""
        ...

    @property
    def stopping(self) -> bool:
        """Return whether it admits nothing more."""
        ...

    @property
    def failures(self) -> int:
        """Return the number of batches that failed so far."""
        ...

    @property
    def problem(self) -> str:
        """Return the reason why requests fail or wait forever now; empty if there is none."""
        ...

    @property
    def fallback(self) -> str | None:
        """Return the reason why another provider than the requested one computes, or None."""
        ...

    @property
    def open_requests(self) -> int:
        """Return the number of requests that were admitted and are not yet answered."""
        ...

    def submit(self, request: EmbedRequest | RowsRequest, draft: RecordDraft | None = None) -> Future[Any]:
        """Admit a request; see `Engine.submit`."""
        ...

    def bound_memory(self, size: int) -> None:
        """Lower the bound of what open requests may be predicted to hold, in bytes."""
        ...

    def set_spare(self, spare: Callable[[], Backend]) -> None:
        """Let a second backend compute the batches that the first one fails at."""
        ...

    def stop_admitting(self) -> None:
        """Reject everything from now on; admitted requests are still answered."""
        ...

    def stop(self, drain_seconds: float = 30.0) -> bool:
        """Stop admitting, and answer what was admitted; return whether everything was answered in time."""
        ...
