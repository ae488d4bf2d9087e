"""A question to a dataset: the text gets the model's query prompt, Longbow the vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError
from fletcher.runtime.reporter import Table

from .connection import Connection, Target

__all__ = ["Found", "search", "table"]

#: Characters of a text that a table shows.
SHOWN = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A hit with what Longbow keeps beside its vector.

    Attributes:
        id: of the row.
        score: Longbow's, higher is nearer.
        text: or None where the dataset has none.
        metadata: what the ingest job wrote, or None.
    """

    id: int
    score: float
    text: str | None
    metadata: Any


def search(
    encoder: Encoder, target: Target, dataset: str, text: str, *, k: int, input_type: str, dimensions: int | None
) -> list[Found]:
    """The k rows nearest to a text, nearest first.

    Args:
        encoder: the model that the dataset was made with.
        target: where Longbow is.
        dataset: what to search.
        text: the question.
        k: hits wanted.
        input_type: which prompt the question gets.
        dimensions: length of the dataset's vectors; None is the model's.

    Raises:
        InputError: no text, no such dataset, or one of vectors of another length or another model.
        ServiceError: Longbow is not there.
    """
    if not text.strip():
        raise InputError("there is nothing to search for: the text is empty")
    if k < 1:
        raise InputError(f"{k} hits were asked for; it needs at least 1")
    vector = encoder.embed([text], input_type=input_type, dimensions=dimensions).vectors[0]
    with Connection(target) as connection:
        found = []
        for hit in connection.search(dataset, vector, k):
            row = connection.row(dataset, hit.id) or {}
            found.append(Found(hit.id, hit.score, row.get("text"), _metadata(row.get("metadata"))))
    _check_model(encoder, dataset, found)
    return found


def _metadata(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text  # not ours


def _check_model(encoder: Encoder, dataset: str, found: Sequence[Found]) -> None:
    for hit in found:
        made_by = hit.metadata.get("digest") if isinstance(hit.metadata, dict) else None
        if made_by is not None and made_by != encoder.artifact.digest:
            raise InputError(
                f"{dataset!r} holds vectors of {hit.metadata.get('model')} (digest {made_by[:12]}), and this artefact is "
                f"{encoder.card.name} (digest {encoder.artifact.digest[:12]}): their vectors cannot be compared"
            )


def table(found: Sequence[Found]) -> Table:
    """The hits for people."""
    rows = []
    for hit in found:
        text = " ".join((hit.text or "").split())
        rows.append([hit.score, hit.id, text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"])
    return Table(["score", "id", "text"], rows)
