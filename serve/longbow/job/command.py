"""`fletcher-serve ingest` behind its options: where the files are, what is told, and what a failure is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from fletcher.runtime import Encoder
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.errors import InputError, ServiceError

from ..journal.journal import Journal
from ..wire.connection import Connection
from ..wire.sink import SinkOptions
from ..wire.target import Target
from .capacity import CapacityWatch
from .documents import DeadLetters, open_documents
from .job import Ingestion, journal_facts
from .summary import IngestOptions, IngestSummary

__all__ = ["Job", "Paths", "run_job"]

_unsafe = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a job keeps what it needs.

    Attributes:
        journal: what was sent.
        dead_letters: what could not be.
    """

    journal: Path
    dead_letters: Path

    @classmethod
    def of(cls, dataset: str, journal: Path | None, dead_letters: Path | None) -> Paths:
        """The given ones, or files in the current folder named after the dataset."""
        name = _unsafe.sub("_", dataset)
        return cls(journal or Path(f"{name}.journal"), dead_letters or Path(f"{name}.failed.jsonl"))


@dataclass(frozen=True, slots=True)
class Job:
    """What the command was asked for; its parts say what they mean.

    Attributes:
        source: file, folder, URL, or "-".
        text_format: of the file, or None.
        column: that holds the text.
        chunk_texts: texts that are read and journaled at a time.
        target: where Longbow is.
        dataset: where the rows go.
        paths: of the job's own files.
        on_error: `skip` or `stop`.
        options: what is done.
        sink: how rows are sent.
        metrics: Longbow's Prometheus page, or None.
        trace: an id for the calls' headers and the rows' metadata, or empty.
    """

    source: str
    text_format: str | None
    column: str
    chunk_texts: int
    target: Target
    dataset: str
    paths: Paths
    on_error: str
    options: IngestOptions
    sink: SinkOptions
    metrics: str | None
    trace: str

    def __post_init__(self) -> None:
        if self.on_error not in ("skip", "stop"):
            raise InputError(f"--on-error is {self.on_error!r}: use skip or stop")
        replace(self.target, trace=self.trace)  # refuses a trace that no header can carry
        if not self.dataset:
            raise InputError("the dataset has no name: give one with --dataset")


def run_job(encoder: Encoder, job: Job, report: Reporter) -> IngestSummary:
    """Runs it and tells what happened.

    Raises:
        InputError: the input, the options, the journal or the dataset cannot be used.
        ServiceError: Longbow is away, or does not have everything that it acknowledged.
    """
    letters = DeadLetters(job.paths.dead_letters, job.on_error == "stop")
    try:
        with open_documents(
            job.source, text_format=job.text_format, column=job.column, chunk_texts=job.chunk_texts, bad=letters.bad
        ) as (source, named_by):
            options = job.options
            if options.id_column is None and named_by is not None:
                options = replace(options, id_column=named_by)
            facts = journal_facts(encoder, job.dataset, options)
            told: list[Ingestion] = []

            def to_index() -> int:
                return connection.readiness(job.dataset).to_index

            with (
                Journal(job.paths.journal, facts) as journal,
                Connection(replace(job.target, timeout=min(job.target.timeout, 5.0))) as connection,
                CapacityWatch(job.metrics, None if options.dry_run else to_index) as watch,
                report.progress(
                    f"ingesting into {job.dataset}",
                    total=source.total,
                    units=("rows", "tokens"),
                    note=lambda: told[0].told() if told else "",
                ) as progress,
            ):
                if watch.problem is not None:
                    report.warn(f"{watch.problem}; going on without")
                ingestion = Ingestion(
                    encoder,
                    source,
                    replace(job.target, trace=job.trace),
                    job.dataset,
                    journal,
                    letters,
                    options,
                    sink_options=job.sink,
                    watch=watch,
                    progress=progress,
                    trace=job.trace,
                    warn=report.warn,
                )
                told.append(ingestion)
                summary = ingestion.run()
    finally:
        letters.close()
    _tell(summary, job, report, letters)
    return summary


def _tell(summary: IngestSummary, job: Job, report: Reporter, letters: DeadLetters) -> None:
    if summary.failed:
        report.warn(
            f"{summary.failed:,} rows could not be used; the first: {letters.first}. {job.paths.dead_letters} has all"
        )
    if summary.truncated_texts:
        report.warn(
            f"{summary.truncated_texts:,} of {summary.sent:,} texts were longer than the model's limit and were truncated: "
            f"{summary.dropped_tokens:,} tokens have no part in the vectors"
        )
    if summary.surplus:
        report.warn(
            f"Longbow's index has {summary.surplus:,} entries more than this journal knows of: rows that others wrote"
        )
    if summary.doubled:
        report.warn(
            f"{summary.doubled:,} rows arrived twice where a stream broke, and Longbow's own searches find them twice"
        )
    report.result(summary)
    if summary.missing:
        raise ServiceError(
            f"Longbow acknowledged {summary.missing:,} rows that it does not have, as it does when its memory is full (raise "
            "LONGBOW_MAX_MEMORY) or it was killed: run the job again, which sends these rows alone"
        )
