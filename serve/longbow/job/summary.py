"""Counts of an ingest job.

    read = sent + known + duplicates + failed

`known` documents were sent by an earlier run with the same journal: a run that was killed, or one before an update.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Counts", "IngestSummary"]


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """Result of a job: read = sent + known + duplicates + failed.

    Attributes:
        dataset: name of the dataset.
        model: name of the model, from its card.
        variant: name of the graph that ran.
        read: number of documents in the input.
        sent: documents that were embedded and acknowledged in this run; with `dry_run`, those that would be sent.
        replaced: documents of `sent` whose former content was deleted.
        known: documents that Longbow has from an earlier run.
        duplicates: documents with the same content, or the same id and content, as an earlier one in the input.
        failed: documents that could not be used; the dead-letter file has them.
        removed: documents of earlier runs that were deleted, because the input no longer has them.
        tokens: number of tokens that the model processed.
        truncated_texts: number of texts that are longer than the model's limit.
        dropped_tokens: number of tokens that were cut from these texts.
        cosine_loss: upper bound of 1 - cosine between a sent vector and the vector of the model; 0 for float32.
        retries: number of streams that failed and were opened again.
        index_len: number of vectors in Longbow's index at the end, or None if they were not counted.
        missing: rows that Longbow acknowledged and does not have; the next run sends them.
        doubled: rows of this journal that arrived twice, which can happen when a stream breaks; one of the two is marked as
            deleted.
        surplus: entries of the index that other programs wrote.
        tombstones: rows that the runs of this journal replaced or removed; they stay in Longbow's index.
        memory_share: highest used share of Longbow's memory, from its metrics.
        seconds: seconds from the start to the count at the end.
        rows_per_second: `sent` divided by `seconds`.
        tokens_per_second: `tokens` divided by `seconds`.
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
    """Counts of a running job. The names are those of `IngestSummary`."""

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
