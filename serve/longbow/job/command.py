"""`run_job`: the work of `fletcher-serve ingest`, with its warnings, its result and its errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fletcher.runtime import Encoder
from fletcher.runtime.commandline.report_files import write_report
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.errors import ServiceError

from ..journal.journal import Journal
from ..wire.connection import Connection
from ..wire.target import Target
from .capacity import CapacityWatch
from .documents import DeadLetters, open_documents
from .job import Ingestion, journal_facts
from .page import ingest_to_html
from .spec import Job
from .summary import IngestSummary

__all__ = ["run_job"]


def run_job(encoder: Encoder, job: Job, report: Reporter, page: Path | None = None) -> IngestSummary:
    """Run an ingest job, and report its result.

    Args:
        encoder: the model.
        job: the job.
        report: receives warnings and the result.
        page: file of the report, .html or .json; None for none.

    Raises:
        InputError: the input, the options, the journal or the dataset cannot be used.
        ServiceError: Longbow cannot be reached, or does not have all rows that it acknowledged.
    """
    options, dataset = job.options, job.longbow.dataset
    letters = DeadLetters(options.dead_letters_path(dataset), options.on_error == "stop")
    try:
        with open_documents(
            job.source,
            text_format=job.inputs.text_format,
            column=job.inputs.column,
            chunk_texts=job.inputs.chunk_size,
            bad=letters.bad,
        ) as (source, named_by):
            if options.id_column is None and named_by is not None:
                options = options.replace(id_column=named_by)
                job = replace(job, options=options)
            running: list[Ingestion] = []
            target = Target.of(job.longbow)

            def to_index() -> int:
                return connection.readiness(dataset).to_index

            with (
                Journal(options.journal_path(dataset), journal_facts(encoder, job)) as journal,
                Connection(replace(target, timeout=min(target.timeout, 5.0))) as connection,
                CapacityWatch(options.longbow_metrics, None if options.dry_run else to_index) as watch,
                report.count(
                    f"ingesting into {dataset}",
                    total=source.total,
                    units=("rows", "tokens"),
                    note=lambda: running[0].status() if running else "",
                ) as progress,
            ):
                if watch.problem is not None:
                    report.warn(f"{watch.problem}; the job continues without them")
                ingestion = Ingestion(
                    encoder, job, source, journal, letters, watch=watch, progress=progress, warn=report.warn
                )
                running.append(ingestion)
                summary = ingestion.run()
    finally:
        letters.close()
    if page is not None:
        write_report(summary, page, lambda: ingest_to_html(summary))
    _report(summary, job, report, letters)
    return summary


def _report(summary: IngestSummary, job: Job, report: Reporter, letters: DeadLetters) -> None:
    if summary.failed:
        report.warn(f"{summary.failed:,} rows could not be used; the first: {letters.first}. See {letters.path}")
    if summary.truncated_texts:
        report.warn(
            f"{summary.truncated_texts:,} of {summary.sent:,} texts were longer than the model's limit and were truncated: "
            f"{summary.dropped_tokens:,} tokens are not part of the vectors"
        )
    if summary.surplus:
        report.warn(
            f"Longbow's index has {summary.surplus:,} entries more than this journal: other programs wrote these rows"
        )
    if summary.doubled:
        report.warn(
            f"{summary.doubled:,} rows arrived twice when a stream broke, and Longbow's own searches return them twice"
        )
    report.result(summary)
    if summary.missing:
        raise ServiceError(
            f"Longbow acknowledged {summary.missing:,} rows that it does not have. This happens when its memory is full "
            "(raise LONGBOW_MAX_MEMORY) or when it is killed. Run the job again: it sends only these rows"
        )
