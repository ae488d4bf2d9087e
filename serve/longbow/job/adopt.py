"""Reconstruction of a journal from the rows of a dataset, if the journal was lost or another machine wrote the dataset."""

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
    """Read the documents of a dataset, and store them in a new journal.

    Longbow sends whole rows, so the whole dataset is sent over the network once.

    Args:
        connection: connection to Longbow.
        dataset: name of the dataset.
        journal: a new journal.
        identity: values that the metadata of every row must have, such as the digest of the model.
        entry: function that makes the journal's entry of a document from its text and its other columns.

    Returns:
        The number of documents.

    Raises:
        InputError: the journal is not new, or the rows are of another model or have no texts.
        ServiceError: Longbow cannot be reached.
    """
    if journal.documents:
        raise InputError(f"{journal.path} has {journal.documents:,} documents already: --adopt is for a new journal")
    removed = all_removed(connection, dataset)
    last: dict[int, tuple[int, Entry]] = {}  # by id: time and entry of the last row
    of_jobs = [Condition("metadata", ">=", '{"batch":"'), Condition("metadata", "<", '{"batch":#')]
    for batch in connection.rows(dataset, of_jobs, ["id", "text", "metadata", "timestamp"]):
        if "text" not in batch.schema.names:
            raise InputError(f"{dataset!r} has no texts (--no-text), and --adopt needs them to identify the documents")
        times = batch.column("timestamp").cast(pa.int64()).to_pylist()
        columns = (batch.column(name).to_pylist() for name in ("id", "text", "metadata"))
        for row, text, metadata, time in zip(*columns, times, strict=True):
            if time < removed.get(row, 0) or (row in last and last[row][0] > time):
                continue
            try:
                fields = decode_json(metadata, dict[str, Any])
            except msgspec.DecodeError as error:
                raise InputError(
                    f"{dataset!r} has a row (id {row}) whose metadata is not a JSON object: {error}. Only rows of an ingest "
                    "job can be adopted"
                ) from error
            for name, value in identity.items():
                if fields.get(name) != value:
                    raise InputError(
                        f"{dataset!r} has rows whose {name} is {fields.get(name)!r}, and this job's is {value!r}"
                    )
            last[row] = time, entry(text, fields.get("fields") or {})
    journal.adopt((row, one) for row, (_, one) in last.items())
    return len(last)
