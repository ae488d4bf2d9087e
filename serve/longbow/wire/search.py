"""A question to a dataset: the text gets the model's query prompt, Longbow the vector."""

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

#: Characters of a text that a table shows.
SHOWN = 100

#: Longbow is asked for so many hits at most, for one that is wanted.
MOST_ASKED = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A hit with what Longbow keeps beside its vector.

    Attributes:
        id: of the row.
        score: 1 / (1 + Euclidean distance), higher is nearer.
        text: or None where the dataset has none.
        metadata: what the ingest job wrote, or None.
    """

    id: int
    score: float
    text: str | None
    metadata: Any


def search(encoder: Encoder, target: Target, dataset: str, text: str, *, k: int, options: EmbedOptions) -> list[Found]:
    """The k rows nearest to a text, nearest first.

    Args:
        encoder: the model that the dataset was made with.
        target: where Longbow is.
        dataset: what to search.
        text: the question.
        k: hits wanted.
        options: how the question becomes a vector; the dimension is the dataset's.

    Raises:
        InputError: no text, no such dataset, or one of vectors of another length or another model.
        ServiceError: Longbow is not there.
    """
    if not text.strip():
        raise InputError("there is nothing to search for: the text is empty")
    if k < 1:
        raise InputError(f"{k} hits were asked for; it needs at least 1")
    vector = encoder.embed([text], options).vectors[0]
    with Connection(target) as connection:
        found: dict[int, Found | None] = {}
        asked = k
        while True:
            hits = connection.search(dataset, vector, asked)
            for hit in hits:
                if hit.id not in found:
                    found[hit.id] = _current(connection, dataset, vector, hit)
            here = [one for one in found.values() if one is not None]
            if len(here) >= k or len(hits) < asked or asked >= MOST_ASKED * k:
                break
            asked *= 2
    nearest = sorted(here, key=lambda one: -one.score)[:k]
    _check_model(encoder, dataset, nearest)
    return nearest


def _current(connection: Connection, dataset: str, vector: NDArray[np.float32], hit: Hit) -> Found | None:
    """What an id stands for now, or None where that was removed.

    Longbow finds rows that were replaced or removed as well; the last one written under an id counts.
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
        return text  # not ours


def _check_model(encoder: Encoder, dataset: str, found: Sequence[Found]) -> None:
    for hit in found:
        made_by = hit.metadata.get("digest") if isinstance(hit.metadata, dict) else None
        if made_by is not None and made_by != encoder.info.digest:
            raise InputError(
                f"{dataset!r} holds vectors of {hit.metadata.get('model')} (digest {made_by[:12]}), and this artifact is "
                f"{encoder.info.card.name} (digest {encoder.info.digest[:12]}): their vectors cannot be compared"
            )


def table(found: Sequence[Found]) -> Table:
    """The hits for people."""
    rows = []
    for hit in found:
        text = " ".join((hit.text or "").split())
        rows.append([hit.score, hit.id, text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"])
    return Table(["score", "id", "text"], rows)
