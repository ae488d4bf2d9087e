"""`LongbowSink`: output of a corpus job as rows of a Longbow dataset, each once.

All rows of a part have the mark JOB-PART in their metadata. Longbow neither overwrites nor deduplicates, so an engine asks
for the rows with the mark before it embeds a part: an engine that died may have sent some.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import InputError

from ...longbow.options import LongbowOptions, SinkOptions
from ...longbow.wire.connection import Connection
from ...longbow.wire.exchange import Parcel
from ...longbow.wire.presence import GRACE, arrived, metadata_head, wait_until_quiet
from ...longbow.wire.schema import MAX_ID, check_schema, longbow_schema, make_batch, widen
from ...longbow.wire.sink import Sink
from ...longbow.wire.target import Target
from .parts import Part

__all__ = ["LongbowSink", "check_dataset", "count_rows"]

DEFAULTS: Final = SinkOptions()


class _NoLedger:
    """Ledger of a sink whose parcels are found by their mark."""

    def sending(self, unit: int) -> None:
        """Do nothing."""

    def acked(self, unit: int) -> None:
        """Do nothing."""


class LongbowSink:
    """Writer of one part."""

    def __init__(
        self,
        options: LongbowOptions,
        part: Part,
        identity: str,
        dimension: int,
        *,
        columns: tuple[str, str | None],
        with_text: bool,
        again: bool,
        facts: dict[str, str],
    ) -> None:
        """Connect, and ask for the rows of the part that are there.

        Args:
            options: Longbow's address and the dataset.
            part: the part.
            identity: name of the job.
            dimension: elements of a vector.
            columns: the column of texts, and the column of ids or None.
            with_text: whether the texts are stored.
            again: whether an engine has begun the part before.
            facts: facts about the vectors, which each row's metadata has.

        Raises:
            ServiceError: Longbow cannot be reached.
            InputError: the dataset has other columns.
        """
        target = Target.of(options)
        self._part, self._columns, self._dataset = part, columns, options.dataset
        self._schema = longbow_schema(dimension, with_text=with_text)
        self._mark = f"{identity}-{part.number}"
        self._head = metadata_head(self._mark, facts)
        self._ids: NDArray[np.int64] = np.zeros(0, np.int64)
        with Connection(target) as connection:
            self._there = _rows_there(connection, options, self._mark, again=again)
        self._sink = Sink(target, options.dataset, self._schema, _NoLedger(), DEFAULTS)
        self._waiting: list[NDArray[np.int64]] = []
        self._sent = 0

    def missing(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        """Return the rows that Longbow lacks.

        Args:
            batch: rows of the part.
            first_row: row of the batch in the input.

        Raises:
            InputError: an id cannot be used.
        """
        ids = _ids_of(batch, self._columns[1], first_row, self._part.path)
        if len(self._there):
            keep = ~np.isin(ids, self._there)
            if not keep.all():
                ids, batch = ids[keep], batch.filter(pa.array(keep))
        self._waiting.append(ids)
        return batch

    def write(self, batch: pa.RecordBatch, embeddings: Embeddings) -> None:
        """Send rows, in the order in which `missing` returned them.

        Raises:
            ServiceError, InputError: Longbow does not take them.
        """
        ids = self._waiting.pop(0)
        while not len(ids):  # batches without a missing row are not embedded
            ids = self._waiting.pop(0)
        text, id_column = self._columns
        vectors = widen(embeddings, allow_unnormalized=False)
        texts = batch.column(text).to_pylist() if "text" in self._schema.names else ()
        metadata = _metadata(self._head, batch, [name for name in batch.schema.names if name not in (text, id_column)])
        self._sink.send(Parcel(self._sent, self._mark, make_batch(self._schema, ids, vectors, texts, metadata)))
        self._sent += 1

    def finish(self) -> None:
        """Wait until all rows are acknowledged.

        Raises:
            ServiceError, InputError: Longbow does not take them.
        """
        try:
            self._sink.flush()
        finally:
            self._sink.close()

    def discard(self) -> None:
        """Close the streams. Rows that were sent are found by their mark when the part is done again."""
        self._sink.close()


def _rows_there(connection: Connection, options: LongbowOptions, mark: str, *, again: bool) -> NDArray[np.int64]:
    """Return the ids of the rows with a mark that Longbow has."""
    if connection.readiness(options.dataset).status == "NOT_FOUND":
        return np.zeros(0, np.int64)
    if again:
        time.sleep(GRACE)  # Longbow stores what a broken stream has sent
        wait_until_quiet(connection, options.dataset, DEFAULTS.patience)
    return arrived(connection, options.dataset, mark)


def _ids_of(batch: pa.RecordBatch, column: str | None, first_row: int, name: str) -> NDArray[np.int64]:
    if column is None:
        ids = np.arange(first_row, first_row + batch.num_rows, dtype=np.int64)
    else:
        if column not in batch.schema.names:
            raise InputError(
                f"{name} has no column {column!r} for ids; it has {', '.join(map(repr, batch.schema.names))}"
            )
        values = batch.column(column)
        if not pa.types.is_integer(values.type) or values.null_count:
            raise InputError(
                f"{name}: the column {column!r} must hold whole numbers without nulls, and it is {values.type}"
            )
        ids = values.cast(pa.int64()).to_numpy()
    if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) <= MAX_ID):
        raise InputError(f"{name}: an id is not from 0 to {MAX_ID}, and Longbow's searches give ids of 32 bits")
    return ids


def _metadata(head: str, batch: pa.RecordBatch, names: list[str]) -> list[str]:
    if not names:
        return [head + "}"] * batch.num_rows
    import msgspec

    encode = msgspec.json.Encoder(enc_hook=str).encode
    return [f'{head},"fields":{encode(fields).decode()}}}' for fields in batch.select(names).to_pylist()]


def check_dataset(options: LongbowOptions, dimension: int, *, with_text: bool) -> int:
    """Check that rows fit into a dataset, and return how many rows it has.

    Raises:
        ServiceError: Longbow cannot be reached.
        InputError: the dataset has other columns.
    """
    with Connection(Target.of(options)) as connection:
        state = connection.readiness(options.dataset)
        if state.status == "NOT_FOUND":
            return 0
        check_schema(
            options.dataset, connection.schema(options.dataset), longbow_schema(dimension, with_text=with_text)
        )
        return state.index_len


def count_rows(options: LongbowOptions) -> int:
    """Return how many rows the index of a dataset has when it has stopped growing.

    Raises:
        ServiceError: Longbow cannot be reached, or stays busy.
    """
    with Connection(Target.of(options)) as connection:
        if connection.readiness(options.dataset).status == "NOT_FOUND":
            return 0
        return wait_until_quiet(connection, options.dataset, DEFAULTS.patience)
