"""The journal beside what Longbow has: before a run, what an earlier one left in doubt; after it, whether all is there."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fletcher.runtime.errors import ServiceError

from ..journal.journal import Journal
from ..wire.connection import Connection, Readiness
from ..wire.presence import GRACE, all_placed, arrived, wait_until_quiet
from ..wire.schema import check_schema

__all__ = ["Census", "count_up", "settle"]


@dataclass(frozen=True, slots=True)
class Census:
    """What a count found; the names are those of `IngestSummary`."""

    index_len: int | None = None
    missing: int = 0
    doubled: int = 0
    surplus: int = 0


def settle(connection: Connection, dataset: str, schema: pa.Schema, journal: Journal, patience: float) -> int:
    """Sees that the dataset takes such rows, and finds out what became of what an earlier run left in doubt.

    Args:
        connection: to Longbow.
        dataset: where the rows go.
        schema: of the rows.
        journal: of the job.
        patience: seconds without any change that Longbow may be busy.

    Returns:
        How many rows there are that a new journal knows nothing of.

    Raises:
        InputError: the dataset has other columns.
        ServiceError: Longbow is not there, or stays busy.
    """
    state = _reach(connection, dataset, patience)
    there = connection.schema(dataset) if state.status != "NOT_FOUND" else None
    if there is not None:
        check_schema(dataset, there, schema)
    if new := journal.fact("baseline") is None:
        journal.set_fact("baseline", str(state.index_len))
    elif state.status == "NOT_FOUND" and journal.acked_rows:
        journal.forget_all()  # somebody deleted the dataset, or it was never made durable
    doubt, seconds = journal.in_doubt()
    if doubt:
        time.sleep(min(max(GRACE - seconds, 0.0), GRACE))
        wait_until_quiet(connection, dataset, patience)
    for unit in doubt:
        journal.settled(unit, arrived(connection, dataset, journal.mark(unit)))
    return state.index_len if new else 0


def count_up(connection: Connection, dataset: str, journal: Journal, patience: float) -> Census:
    """Counts what arrived: `READY` alone hides rows that were dropped after OK.

    What is missing is forgotten, so that the next run sends it, and of what arrived twice one is marked as deleted. The whole
    dataset crosses the network where the count is not what it should be.

    Args:
        connection: to Longbow.
        dataset: where the rows went.
        journal: of the job.
        patience: seconds without any change that Longbow may be busy.

    Raises:
        ServiceError: Longbow is not there, stays busy, or has not indexed what it has.
    """
    least = journal.count("baseline") + journal.acked_rows
    index_len = wait_until_quiet(connection, dataset, patience)
    if index_len == least:
        return Census(index_len)
    there, copies = np.unique(all_placed(connection, dataset, journal.marks), return_counts=True)
    if index_len > least:
        for row in (there[copies > 1] >> np.uint64(32)).tolist():
            connection.delete(dataset, row)
        doubled = int((copies - 1).sum())
        journal.add("baseline", index_len - least)  # told once
        return Census(index_len, doubled=doubled, surplus=max(0, index_len - least - doubled))
    absent = np.setdiff1d(journal.placed(), there)
    journal.forget((absent >> np.uint64(32)).astype(np.int64))
    journal.add("baseline", -len(absent))  # from here on counting begins without them
    unindexed = least - index_len - len(absent)
    if unindexed > 0:
        lost = f"; {len(absent):,} others are not there at all, and the next run sends them" if len(absent) else ""
        raise ServiceError(
            f"Longbow has rows of {dataset!r} of which {unindexed:,} are not in its index, and no search finds them{lost}. "
            "It says READY all the same. Make the dataset anew"
        )
    return Census(index_len, missing=len(absent))


def _reach(connection: Connection, dataset: str, patience: float) -> Readiness:
    """The first word with Longbow: tries again for a while."""
    deadline = time.monotonic() + min(patience, connection.target.timeout)
    while True:
        try:
            return connection.readiness(dataset)
        except ServiceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
