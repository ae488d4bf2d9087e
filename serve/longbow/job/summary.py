"""Counts of an ingest job.

    in = sent + known + duplicates + failed

`known` are documents that an earlier run of the same journal brought there: after a kill, or in an incremental update.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counts", "IngestSummary"]


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What a job did: read = sent + known + duplicates + failed.

    Attributes:
        dataset: where the rows are.
        model: the card's name.
        variant: the graph that ran.
        read: documents in the input.
        sent: embedded and acknowledged in this run; with `dry_run`, those that would be.
        replaced: of them, those whose former content was deleted.
        known: in Longbow from an earlier run.
        duplicates: same content, or same id and content, as one before in the input.
        failed: could not be used; the dead-letter file has them.
        removed: documents of earlier runs that the input has no more, deleted.
        tokens: that the model saw.
        truncated_texts: longer than the model's limit.
        dropped_tokens: cut from them.
        cosine_loss: 1 - cosine between a vector as it was sent and as the model computed it is at most this; 0 for float32.
        retries: streams that failed and were opened anew.
        index_len: vectors in Longbow's index at the end; None where it was not asked.
        missing: rows that Longbow acknowledged and does not have; the next run sends them.
        doubled: rows of this journal that arrived twice, which the protocol cannot rule out where a stream breaks; one of the
            two is marked as deleted.
        surplus: index entries beyond all these: rows of others.
        tombstones: rows that this journal's runs replaced or removed; Longbow's index has them for ever.
        memory_share: highest share of Longbow's memory that its metrics told.
        seconds: from the first document read to the count at the end.
        rows_per_second: rows sent by these seconds.
        tokens_per_second: tokens by these seconds.
    """

    dataset: str
    model: str
    variant: str
    read: int
    sent: int
    replaced: int
    known: int
    duplicates: int
    failed: int
    removed: int
    tokens: int
    truncated_texts: int
    dropped_tokens: int
    cosine_loss: float
    retries: int
    index_len: int | None
    missing: int
    doubled: int
    surplus: int
    tombstones: int
    memory_share: float | None
    seconds: float
    rows_per_second: float
    tokens_per_second: float


@dataclass(slots=True)
class Counts:
    """What a job has done so far; its names are those of `IngestSummary`."""

    read: int = 0
    sent: int = 0
    replaced: int = 0
    known: int = 0
    duplicates: int = 0
    failed: int = 0
    removed: int = 0
    tokens: int = 0
    truncated: int = 0
    dropped: int = 0
    cosine_loss: float = 0.0
