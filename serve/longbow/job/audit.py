"""Comparison of the journal with Longbow: of the units in doubt before a run, and of the count of rows after it."""

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
    """Result of a count. The names are those of `IngestSummary`."""

    index_len: int | None = None
    missing: int = 0
    doubled: int = 0
    surplus: int = 0


def settle(connection: Connection, dataset: str, schema: pa.Schema, journal: Journal, patience: float) -> int:
    """Check that the rows fit into the dataset, and settle the units that an earlier run left in doubt.

    Args:
        connection: connection to Longbow.
        dataset: name of the dataset.
        schema: schema of the rows.
        journal: journal of the job.
        patience: seconds that Longbow may be busy without any change.

    Returns:
        The number of rows that a new journal does not have.

    Raises:
        InputError: the dataset has other columns.
        ServiceError: Longbow cannot be reached, or stays busy.
    """
    state = _reach(connection, dataset, patience)
    stored = connection.schema(dataset) if state.status != "NOT_FOUND" else None
    if stored is not None:
        check_schema(dataset, stored, schema)
    if new := journal.fact("baseline") is None:
        journal.set_fact("baseline", str(state.index_len))
    elif state.status == "NOT_FOUND" and journal.acked_rows:
        journal.forget_all()  # the dataset was deleted, or Longbow never wrote it to its disk
    doubt, seconds = journal.in_doubt()
    if doubt:
        time.sleep(min(max(GRACE - seconds, 0.0), GRACE))
        wait_until_quiet(connection, dataset, patience)
    for unit in doubt:
        journal.settled(unit, arrived(connection, dataset, journal.mark(unit)))
    return state.index_len if new else 0


def count_up(connection: Connection, dataset: str, journal: Journal, patience: float) -> Census:
    """Count the rows that arrived: the status `READY` does not exclude rows that were dropped after OK.

    Missing rows are removed from the journal, so that the next run sends them. Of rows that arrived twice, one is marked as
    deleted. If the count is not the expected one, the whole dataset is sent over the network.

    Args:
        connection: connection to Longbow.
        dataset: name of the dataset.
        journal: journal of the job.
        patience: seconds that Longbow may be busy without any change.

    Raises:
        ServiceError: Longbow cannot be reached, stays busy, or has rows that are not in its index.
    """
    least = journal.count("baseline") + journal.acked_rows
    index_len = wait_until_quiet(connection, dataset, patience)
    if index_len == least:
        return Census(index_len)
    arrived_rows, copies = np.unique(all_placed(connection, dataset, journal.marks), return_counts=True)
    if index_len > least:
        for row in (arrived_rows[copies > 1] >> np.uint64(32)).tolist():
            connection.delete(dataset, row)
        doubled = int((copies - 1).sum())
        journal.add("baseline", index_len - least)  # report these rows only once
        return Census(index_len, doubled=doubled, surplus=max(0, index_len - least - doubled))
    absent = np.setdiff1d(journal.placed(), arrived_rows)
    journal.forget((absent >> np.uint64(32)).astype(np.int64))
    journal.add("baseline", -len(absent))  # the next count does not expect them
    unindexed = least - index_len - len(absent)
    if unindexed > 0:
        lost = f"; {len(absent):,} others are missing, and the next run sends them" if len(absent) else ""
        raise ServiceError(
            f"Longbow has rows of {dataset!r} of which {unindexed:,} are not in its index, and searches do not find them"
            f"{lost}. Longbow reports READY nevertheless. Delete the dataset and ingest it again"
        )
    return Census(index_len, missing=len(absent))


def _reach(connection: Connection, dataset: str, patience: float) -> Readiness:
    """Return the state of the dataset. Try again for a while if Longbow cannot be reached."""
    deadline = time.monotonic() + min(patience, connection.target.timeout)
    while True:
        try:
            return connection.readiness(dataset)
        except ServiceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
