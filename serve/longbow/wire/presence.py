"""Which rows of a batch are in Longbow: what an acknowledgement that got lost would have said.

A row's metadata begins with the mark of the batch that it was sent in, and Longbow can be asked for rows whose string lies
between two others. So one question tells what of a batch arrived; it is right after a restart of Longbow too, when its table
of ids, which its `delete` goes by, is empty.
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

#: Seconds after the end of a stream until Longbow has taken in what had reached it; nothing tells of it before.
GRACE: Final = 1.0

_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def metadata_head(mark: str, constant: Mapping[str, Any]) -> str:
    """What the metadata of a batch's rows begin with, JSON without its last brace.

    Args:
        mark: of the batch: letters, digits and dashes.
        constant: what else is the same in all rows.
    """
    return _encode({"batch": mark, **constant}).decode()[:-1]


def arrived(connection: Connection, dataset: str, mark: str) -> NDArray[np.int64]:
    """Ids of the rows that are there of a batch, int64, (n,); as often as they are.

    Raises:
        ServiceError, InputError: as in `translate`.
    """
    start = f'{{"batch":"{mark}'
    between = [Condition("metadata", ">=", start + '"'), Condition("metadata", "<", start + "#")]  # '#' follows '"'
    batches = connection.rows(dataset, between, ["id"])
    return np.concatenate([np.zeros(0, np.int64), *(batch.column("id").to_numpy() for batch in batches)])


def all_placed(connection: Connection, dataset: str, job: str) -> NDArray[np.uint64]:
    """All rows that a job's batches brought there, each as `id << 32 | unit`; uint64, (n,).

    Longbow sends them whole: the dataset crosses the network.

    Args:
        connection: to Longbow.
        dataset: what to read.
        job: what its marks begin with; a mark is `JOB-UNIT`.

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
    """Waits until Longbow is ready and its index grows no more; returns `index_len`.

    Args:
        connection: to Longbow.
        dataset: what is waited for.
        patience: seconds without any change after which it is given up. Longbow acknowledges rows long before it has
            indexed them.

    Raises:
        ServiceError: it stays busy.
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
                f"for {patience:g} s. What it acknowledged is not lost: try again later"
            )
        pause = min(pause * 2, 1.0)
