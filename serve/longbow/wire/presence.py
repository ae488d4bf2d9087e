"""Queries for the rows of a batch that Longbow has, for batches whose acknowledgment was lost.

The metadata of a row begins with the mark of its batch, and Longbow can filter rows whose string lies between two
bounds. So one query returns the rows of a batch that arrived. The query is also right after a restart of Longbow, when
the table of ids that `delete` uses is empty.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fletcher.runtime.errors import ServiceError

from .connection import Condition, Connection

__all__ = ["GRACE", "all_placed", "arrived", "metadata_head", "wait_until_quiet"]

#: Seconds after the end of a stream until Longbow has stored what it received. Before that, no call shows these rows.
GRACE: Final = 1.0

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def metadata_head(mark: str, constant: Mapping[str, Any]) -> str:
    """Return the beginning of the metadata of a batch's rows: JSON without the last brace.

    Args:
        mark: mark of the batch: letters, digits and dashes.
        constant: other values that are the same in all rows.
    """
    return _encode({"batch": mark, **constant}).decode()[:-1]


def arrived(connection: Connection, dataset: str, mark: str) -> NDArray[np.int64]:
    """Return the ids of the rows of a batch that Longbow has, int64, (n,). Repeated rows are included.

    Raises:
        ServiceError, InputError: as in `translate`.
    """
    start = f'{{"batch":"{mark}'
    between = [Condition("metadata", ">=", start + '"'), Condition("metadata", "<", start + "#")]  # '#' follows '"'
    batches = connection.rows(dataset, between, ["id"])
    return np.concatenate([np.zeros(0, np.int64), *(batch.column("id").to_numpy() for batch in batches)])


def all_placed(connection: Connection, dataset: str, job: str) -> NDArray[np.uint64]:
    """Return all rows of a job's batches, each as `id << 32 | unit`; uint64, (n,).

    Longbow sends whole rows, so the whole dataset is sent over the network.

    Args:
        connection: connection to Longbow.
        dataset: name of the dataset.
        job: beginning of the job's marks; a mark is `JOB-UNIT`.

    Raises:
        ServiceError, InputError: as in `translate`.
    """
    start = f'{{"batch":"{job}'
    between = [Condition("metadata", ">=", start + "-"), Condition("metadata", "<", start + ".")]
    parts = [np.zeros(0, np.uint64)]
    for batch in connection.rows(dataset, between, ["id", "metadata"]):
        marks = pc.extract_regex(batch.column("metadata"), rf'^\{{"batch":"{job}-(?P<unit>\d+)"')
        units = marks.field("unit").cast(pa.uint64()).to_numpy()
        parts.append((batch.column("id").to_numpy().astype(np.uint64) << np.uint64(32)) | units)
    return np.concatenate(parts)


def wait_until_quiet(connection: Connection, dataset: str, patience: float) -> int:
    """Wait until Longbow is ready and its index stops growing. Return `index_len`.

    Args:
        connection: connection to Longbow.
        dataset: name of the dataset.
        patience: seconds without any change after which the wait fails. Longbow acknowledges rows long before it has
            indexed them.

    Raises:
        ServiceError: Longbow stays busy.
    """
    last, changed = connection.readiness(dataset), time.monotonic()
    pause = 0.02
    while True:
        time.sleep(pause)
        state = connection.readiness(dataset)
        if state != last:
            last, changed = state, time.monotonic()
        elif state.status != "BUSY":
            return state.index_len
        elif time.monotonic() - changed > patience:
            raise ServiceError(
                f"Longbow at {connection.target.url} stays busy ({state.reason or 'its index grows'}), without any change "
                f"for {patience:g} s. Acknowledged rows are not lost: try again later"
            )
        pause = min(pause * 2, 1.0)
