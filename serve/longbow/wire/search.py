"""Search in a dataset: the model embeds the text with its query prompt, and Longbow finds the nearest vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime import Encoder
from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions

from .connection import Condition, Connection, Hit
from .removed import removed_at
from .target import Target

__all__ = ["Found", "search", "table"]

#: Largest number of characters of a text in the table of hits.
SHOWN = 100

#: Largest number of hits that are requested from Longbow for each result.
MOST_ASKED = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, with the text and the metadata of its row.

    Attributes:
        id: id of the row.
        score: 1 / (1 + Euclidean distance); a higher score is nearer.
        text: the text, or None if the dataset has no texts.
        metadata: metadata that the ingest job wrote, or None.
    """

    id: int
    score: float
    text: str | None
    metadata: Any


def search(encoder: Encoder, target: Target, dataset: str, text: str, *, k: int, options: EmbedOptions) -> list[Found]:
    """Return the k rows nearest to a text, nearest first.

    Args:
        encoder: the model that embedded the rows of the dataset.
        target: address of Longbow.
        dataset: name of the dataset.
        text: text to search for.
        k: number of results.
        options: options of embedding; the dimension must be that of the dataset.

    Raises:
        InputError: the text is empty, the dataset does not exist, or its vectors have another dimension or another
            model.
        ServiceError: Longbow cannot be reached.
    """
    if not text.strip():
        raise InputError("there is nothing to search for: the text is empty")
    if k < 1:
        raise InputError(f"{k} hits were requested: the smallest number is 1")
    vector = encoder.embed([text], options).vectors[0]
    with Connection(target) as connection:
        rows: dict[int, Found | None] = {}
        requested = k
        while True:
            hits = connection.search(dataset, vector, requested)
            for hit in hits:
                if hit.id not in rows:
                    rows[hit.id] = _current(connection, dataset, vector, hit)
            current = [row for row in rows.values() if row is not None]
            if len(current) >= k or len(hits) < requested or requested >= MOST_ASKED * k:
                break
            requested *= 2
    nearest = sorted(current, key=lambda row: -row.score)[:k]
    _check_model(encoder, dataset, nearest)
    return nearest


def _current(connection: Connection, dataset: str, vector: NDArray[np.float32], hit: Hit) -> Found | None:
    """Return the current row of an id, or None if the document was removed.

    Longbow also finds rows that were replaced or removed. The current row is the last one that was written with the id.
    """
    last: dict[str, Any] = {}
    where = [Condition("id", "=", str(hit.id))]
    for batch in connection.rows(dataset, where, ["vector", "text", "metadata", "timestamp"]):
        if "timestamp" in batch.schema.names:
            place = batch.schema.get_field_index("timestamp")
            batch = batch.set_column(place, "timestamp", batch.column(place).cast(pa.int64()))
        for row in batch.to_pylist():
            if (row.get("timestamp") or 0) >= (last.get("timestamp") or 0):
                last = row
    if last and removed_at(connection, dataset, hit.id) > (last.get("timestamp") or 0):
        return None
    score = hit.score
    if len(last.get("vector") or ()) == len(vector):
        score = float(1 / (1 + np.linalg.norm(np.array(last["vector"], np.float32) - vector)))
    return Found(hit.id, score, last.get("text"), _metadata(last.get("metadata")))


def _metadata(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return decode_json(text, object)
    except msgspec.DecodeError:
        return text  # another program wrote it


def _check_model(encoder: Encoder, dataset: str, hits: Sequence[Found]) -> None:
    for hit in hits:
        made_by = hit.metadata.get("digest") if isinstance(hit.metadata, dict) else None
        if made_by is not None and made_by != encoder.info.digest:
            raise InputError(
                f"{dataset!r} holds vectors of {hit.metadata.get('model')} (digest {made_by[:12]}), and this artifact is "
                f"{encoder.info.card.name} (digest {encoder.info.digest[:12]}): their vectors cannot be compared"
            )


def table(found: Sequence[Found]) -> Table:
    """Return the hits as a table."""
    rows = []
    for hit in found:
        text = " ".join((hit.text or "").split())
        rows.append([hit.score, hit.id, text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"])
    return Table(["score", "id", "text"], rows)
