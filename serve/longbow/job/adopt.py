"""A journal made of what a dataset has: where the journal was lost, or another machine wrote the dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pyarrow as pa

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError

from ..journal.journal import Entry, Journal
from ..wire.connection import Condition, Connection
from ..wire.removed import all_removed

__all__ = ["adopt"]


def adopt(
    connection: Connection,
    dataset: str,
    journal: Journal,
    identity: Mapping[str, Any],
    entry: Callable[[str, Mapping[str, Any]], Entry],
) -> int:
    """Reads which documents are in a dataset and writes them into a journal that knows none.

    Longbow sends whole rows for it: the dataset crosses the network once.

    Args:
        connection: to Longbow.
        dataset: what to read.
        journal: a new one.
        identity: what every row's metadata must say, such as the model's digest.
        entry: who a document is, of its text and its other columns.

    Returns:
        How many documents there are.

    Raises:
        InputError: the journal is not new, or the rows are another model's or have no texts.
        ServiceError: Longbow is not there.
    """
    if journal.documents:
        raise InputError(f"{journal.path} knows {journal.documents:,} documents already: --adopt is for a new journal")
    removed = all_removed(connection, dataset)
    last: dict[int, tuple[int, Entry]] = {}  # by id: when, and what it says
    ours = [Condition("metadata", ">=", '{"batch":"'), Condition("metadata", "<", '{"batch":#')]
    for batch in connection.rows(dataset, ours, ["id", "text", "metadata", "timestamp"]):
        if "text" not in batch.schema.names:
            raise InputError(f"{dataset!r} has no texts (--no-text), and without them nobody can tell what is there")
        times = batch.column("timestamp").cast(pa.int64()).to_pylist()
        columns = (batch.column(name).to_pylist() for name in ("id", "text", "metadata"))
        for row, text, metadata, time in zip(*columns, times, strict=True):
            if time < removed.get(row, 0) or (row in last and last[row][0] > time):
                continue
            try:
                told = decode_json(metadata, dict[str, Any])
            except msgspec.DecodeError as error:
                raise InputError(
                    f"{dataset!r} has a row (id {row}) whose metadata is not a JSON object: {error}. Only rows of an ingest "
                    "job can be adopted"
                ) from error
            for name, wanted in identity.items():
                if told.get(name) != wanted:
                    raise InputError(
                        f"{dataset!r} has rows whose {name} is {told.get(name)!r}, and this job's is {wanted!r}"
                    )
            last[row] = time, entry(text, told.get("fields") or {})
    journal.adopt((row, one) for row, (_, one) in last.items())
    return len(last)
