"""Removal of documents from a dataset.

Longbow's `delete` does not remove rows from the index, and a restart undoes it. So each removal is also stored as a row
of a second dataset, `DATASET.removed`: the id, and the time in nanoseconds since 1970.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .connection import Condition, Connection
from .exchange import Exchange

__all__ = ["all_removed", "remove_rows", "removed_at"]

SCHEMA: Final = pa.schema([pa.field("id", pa.int64()), pa.field("removed", pa.int64())])


def remove_rows(connection: Connection, dataset: str, ids: NDArray[np.int64]) -> None:
    """Store the removal of documents, and let Longbow mark their rows as deleted.

    Args:
        connection: connection to Longbow.
        dataset: name of the dataset of the documents.
        ids: ids of the documents, int64, (n,).

    Raises:
        ServiceError, InputError: as in `translate`; call again then.
    """
    now = np.full(len(ids), time.time_ns(), np.int64)
    stream = Exchange(connection, _beside(dataset), SCHEMA, None, lambda parcels, rows, seconds: None)
    try:
        stream.write(pa.RecordBatch.from_arrays([pa.array(ids), pa.array(now)], schema=SCHEMA), [], [])
        stream.finish()
    except BaseException:
        stream.abort()
        raise
    for row in ids.tolist():
        connection.delete(dataset, row)


def removed_at(connection: Connection, dataset: str, row: int) -> int:
    """Return the time of a document's last removal, in nanoseconds since 1970, or 0 if it was never removed.

    Raises:
        ServiceError, InputError: as in `translate`.
    """
    batches = connection.rows(_beside(dataset), [Condition("id", "=", str(row))], ["removed"])
    return max((max(batch.column("removed").to_pylist(), default=0) for batch in batches), default=0)


def all_removed(connection: Connection, dataset: str) -> dict[int, int]:
    """Return the time of the last removal of each document that was removed, in nanoseconds since 1970, by id.

    Raises:
        ServiceError, InputError: as in `translate`.
    """
    last: dict[int, int] = {}
    for batch in connection.rows(_beside(dataset), [Condition("id", ">=", "0")], ["id", "removed"]):
        for row, when in zip(batch.column("id").to_pylist(), batch.column("removed").to_pylist(), strict=True):
            last[row] = max(when, last.get(row, 0))
    return last


def _beside(dataset: str) -> str:
    return f"{dataset}.removed"
