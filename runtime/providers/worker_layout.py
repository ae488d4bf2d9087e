"""`WorkerLayout`: numbers of workers and threads that run a graph on a provider, and the size of their batches."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["WorkerLayout"]

#: Positive number. A damaged file of measurements must not give zero workers.
Count = Annotated[int, msgspec.Meta(ge=1)]


class WorkerLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`WorkerLayout`: provider, workers, threads and batch size that run a graph.

    Attributes:
        provider: name of a provider of the registry.
        workers: number of batches computed at the same time.
        threads: processor threads of each worker.
        token_budget: tokens that a batch should hold.
    """

    provider: str
    workers: Count
    threads: Count
    token_budget: Count
