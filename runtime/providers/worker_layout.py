"""`WorkerLayout`: how many workers and threads run a graph on a provider, and how large their batches are."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["WorkerLayout"]

#: A damaged file of measurements must not ask for zero workers.
Count = Annotated[int, msgspec.Meta(ge=1)]


class WorkerLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to run a graph.

    Attributes:
        provider: name of a provider of the registry.
        workers: batches computed at once.
        threads: processor threads of each.
        token_budget: tokens that a batch should hold.
    """

    provider: str
    workers: Count
    threads: Count
    token_budget: Count
