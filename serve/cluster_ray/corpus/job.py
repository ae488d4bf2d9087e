"""`embed_corpus`: the work of `fletcher-serve cluster embed` on a connected cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa

from fletcher.model_zoo.decode import decode_json
from fletcher.model_zoo.progress import Counter as Progress
from fletcher.runtime.commandline.reporter import Reporter
from fletcher.runtime.errors import InputError, ServiceError
from fletcher.runtime.options.load import LoadOptions

from ..connection import Cluster, brief
from ..measure import Measured, measure_models
from ..nodes import NodeReport, Questions, inspect_node, pinned_digests, refuse_differences
from ..placement import Need, Room, refuse_if_none_fits, with_margin
from .attempts import Attempts
from .files import remove_temporary
from .journal import Done, PartJournal
from .longbow import check_dataset, count_rows
from .options import CorpusJob, CorpusOptions
from .parts import FileQuestion, Part, Planned, find_files, plan_file
from .worker import PartEmbedder, WorkerJob

__all__ = ["CorpusSummary", "embed_corpus"]

#: Parts that wait in an engine's process beside the one that it embeds.
WAITING: Final = 2

#: Engines that may fail to start one after the other before the job ends. A start also fails when a node dies.
MOST_FAILED_STARTS: Final = 3

#: Seconds that the plan of a file and the trial of the model may take.
PLAN_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """Result of a job.

    Attributes:
        output: folder, URL or dataset.
        rows: rows of the input, each of which is in the output once.
        parts: parts of the input.
        resumed_rows: rows of parts that earlier runs had finished.
        written_rows: rows that this run wrote.
        tokens: tokens that the model processed for all parts.
        truncated_texts: texts that were longer than the model's limit.
        dropped_tokens: tokens that were cut from these texts.
        space: identifier of the space of the vectors.
        engines: engines of this run.
        rows_by_node: rows of all parts by the name of the node.
        memory: largest resident memory of an engine's process in this run, in bytes.
        seconds: seconds from the plan to the last part.
        rows_per_second: rows of this run divided by `seconds`.
    """

    output: str
    rows: int
    parts: int
    resumed_rows: int
    written_rows: int
    tokens: int
    truncated_texts: int
    dropped_tokens: int
    space: str
    engines: int
    rows_by_node: dict[str, int]
    memory: int
    seconds: float
    rows_per_second: float


def embed_corpus(cluster: Cluster, job: CorpusJob, report: Reporter) -> CorpusSummary:
    """Embed every row of the input, and write each once. A job that was killed continues when it runs again.

    Raises:
        InputError: the input, the output, the model, a node or the journal cannot be used.
        ServiceError: the output does not take rows, or the cluster fails.
    """
    reports = _inspect(cluster, job)
    digest = job.load.digest or pinned_digests(reports).get(job.artifact)
    load = job.load.replace(digest=digest)
    measured = _trial(cluster, job, load)
    need, engines = _place(cluster, job, measured)
    if load.workers is None and not need.gpus:
        load = load.replace(workers=int(need.cpus))
    files = find_files(job.source)
    parts = plan(cluster, files, job)
    rows = sum(part.rows for part in parts)
    facts = _facts(job, files, measured, rows)
    baseline = None
    if job.longbow is not None:
        dimension = job.options.dimensions or measured.dimension
        baseline = check_dataset(job.longbow, dimension, with_text=job.corpus.with_text)
    journal = PartJournal(job.journal, facts, baseline)
    resumed = sum(done.rows for done in journal.done.values())
    todo = [part for part in parts if part.number not in journal.done]
    started = time.monotonic()
    if todo:
        engines = min(engines, len(todo))
        worker = WorkerJob(
            artifact=job.artifact,
            load=load,
            options=job.options,
            inputs=job.inputs,
            identity=journal.identity,
            folder="" if job.longbow is not None else job.sink,
            longbow=job.longbow,
            id_column=job.corpus.id_column,
            with_text=job.corpus.with_text,
            resumed=journal.resumed,
        )
        by_node: Counter[str] = Counter()
        with report.count("embedding", total=rows, units=("rows", "tokens"), note=lambda: _note(by_node)) as progress:
            progress.advance(resumed, 0)
            _run(cluster, worker, todo, (need, engines), journal, _Seen(progress, by_node, measured.space))
    seconds = max(time.monotonic() - started, 1e-9)
    _close(job, journal, rows)
    return _summary(job, journal, parts, resumed, engines if todo else 0, seconds)


def _inspect(cluster: Cluster, job: CorpusJob) -> list[NodeReport]:
    """Return the reports of the nodes.

    Raises:
        InputError: a node cannot be used, or nodes differ.
    """
    asked = Questions(((job.artifact, job.load.digest),))
    answers = cluster.on_each_node(inspect_node, msgspec.json.encode(asked))
    reports = [decode_json(answer, NodeReport) for answer in answers.values()]
    refuse_differences(reports)
    return reports


def _trial(cluster: Cluster, job: CorpusJob, load: LoadOptions) -> Measured:
    """Load the model on a node.

    Raises:
        InputError: it cannot be used with the options.
    """
    from ...models.spec import ModelSpec

    spec = ModelSpec.of(load, path=job.artifact)
    gpus = _gpus(cluster, job.corpus)
    remote = cluster.ray.remote(num_cpus=0, num_gpus=gpus, max_calls=1, max_retries=1)(measure_models)
    task = remote.remote(msgspec.json.encode([spec]), msgspec.json.encode(job.options))
    measured = decode_json(cluster.result(task, "the trial of the model", PLAN_SECONDS), Measured)
    if measured.problem:
        raise InputError(measured.problem)
    return measured


def _gpus(cluster: Cluster, options: CorpusOptions) -> int:
    if options.gpus is not None:
        return options.gpus
    rooms = [room for room in cluster.rooms({}) if room.cpus]
    return int(bool(rooms) and all(room.gpus >= 1 for room in rooms))


def _place(cluster: Cluster, job: CorpusJob, measured: Measured) -> tuple[Need, int]:
    """Return what an engine needs, and the number of engines.

    Raises:
        InputError: no node holds an engine, or the cluster fewer than the options ask for.
    """
    rooms = [room for room in cluster.rooms({}) if room.cpus]
    if not rooms:
        raise InputError("no node of the cluster lets tasks run: every node was started with --num-cpus 0")
    gpus = _gpus(cluster, job.corpus)
    cores = job.corpus.cores or _cores(rooms, gpus)
    need = Need(float(cores), float(gpus), with_margin(measured.memory))
    wanted = job.corpus.engines
    held = refuse_if_none_fits("an engine", need, rooms, wanted or 1)
    return need, held if wanted is None else wanted


def _cores(rooms: Sequence[Room], gpus: int) -> int:
    """Return the cores of an engine: those of the smallest node, divided among its GPUs."""
    if not gpus:
        return max(int(min(room.cpus for room in rooms)), 1)
    with_gpus = [room for room in rooms if room.gpus >= gpus]
    return max(int(min(room.cpus * gpus / room.gpus for room in with_gpus)), 1) if with_gpus else 1


def plan(cluster: Cluster, files: Sequence[str], job: CorpusJob) -> list[Part]:
    """Return the parts of files, in order. Tasks of the cluster read the files' sizes.

    Raises:
        InputError: a file cannot be read.
    """
    remote = cluster.ray.remote(num_cpus=0.5)(plan_file)
    questions = [FileQuestion(path, job.corpus.part_rows, job.inputs) for path in files]
    tasks = [remote.remote(msgspec.json.encode(question)) for question in questions]
    parts: list[Part] = []
    first_row = 0
    for path, task in zip(files, tasks, strict=True):
        planned = decode_json(cluster.result(task, f"the plan of {path}", PLAN_SECONDS), Planned)
        if planned.problem:
            raise InputError(planned.problem)
        for rows, groups in planned.parts:
            parts.append(Part(len(parts), path, first_row, rows, groups))
            first_row += rows
    return parts


def _facts(job: CorpusJob, files: Sequence[str], measured: Measured, rows: int) -> dict[str, str]:
    """Return what must not change between the runs of a job."""
    return {
        "model": measured.digest,
        "space": measured.space,
        "options": job.options.identity,
        "input": job.source,
        "files": str(len(files)),
        "rows": str(rows),
        "part_rows": str(job.corpus.part_rows),
        "column": job.inputs.column,
        "output": job.sink,
        "ids": str(job.corpus.id_column),
    }


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a run shows and checks: the progress, the rows by node, and the space of the vectors."""

    progress: Progress
    by_node: Counter[str]
    space: str

    def part(self, done: Done) -> None:
        """Count a finished part.

        Raises:
            FletcherError: the part failed, or its vectors are of another space.
        """
        if done.error:
            raise (InputError if done.by_input else ServiceError)(f"{done.error} (node {done.node})")
        if done.space != self.space:
            raise InputError(
                f"the node {done.node} gives vectors of the space {done.space}, and another one those of {self.space}: name "
                "one provider and one variant with --provider and --variant"
            )
        self.by_node[done.node] += done.rows
        self.progress.advance(done.rows, done.tokens)


def _note(by_node: Counter[str]) -> str:
    return ", ".join(f"{node} {rows:,}" for node, rows in sorted(by_node.items()))


def _run(
    cluster: Cluster,
    worker: WorkerJob,
    parts: Sequence[Part],
    pool: tuple[Need, int],
    journal: PartJournal,
    seen: _Seen,
) -> None:
    """Let a pool of engines embed parts, and store each finished one in the journal.

    Raises:
        FletcherError: a part cannot be embedded or written.
        ServiceError: the cluster fails.
    """
    from ray.exceptions import RayError

    need, engines = pool
    attempts = None
    if worker.longbow is not None:
        attempts = cluster.ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    try:
        for done in _results(cluster, worker, parts, (need, engines), attempts):
            seen.part(done)
            journal.finish(done)
    except RayError as error:
        raise ServiceError(f"the cluster failed: {brief(error)}. Finished parts are kept: run the job again") from error


def _results(
    cluster: Cluster, worker: WorkerJob, parts: Sequence[Part], pool: tuple[Need, int], attempts: Any
) -> Iterator[Done]:
    """Yield the finished parts of a Ray Data pipeline. Blocks hold parts and counts; engines hold texts and vectors."""
    import ray.data

    need, engines = pool
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = MOST_FAILED_STARTS
    tables = [pa.table({"part": [msgspec.json.encode(part).decode()]}) for part in parts]
    finished = ray.data.from_arrow(tables).map_batches(
        PartEmbedder,
        fn_constructor_args=(msgspec.json.encode(worker), attempts),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=engines, max_tasks_in_flight_per_actor=WAITING),
        num_cpus=need.cpus,
        num_gpus=need.gpus,
    )
    for batch in finished.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for text in batch.column("done").to_pylist():
            yield decode_json(text, Done)


def _close(job: CorpusJob, journal: PartJournal, rows: int) -> None:
    """Compare the output with the input, and remove what dead engines left.

    Raises:
        ServiceError: rows are missing.
    """
    counted = sum(done.rows for done in journal.done.values())
    if counted != rows:
        raise ServiceError(f"the finished parts have {counted:,} rows, and the input has {rows:,}: run the job again")
    if job.longbow is None:
        remove_temporary(job.sink)
        return
    there = count_rows(job.longbow) - (journal.baseline or 0)
    if there != rows:
        raise ServiceError(
            f"the index of {job.longbow.dataset!r} has {there:,} rows since this job began, and the input has {rows:,}. "
            "Longbow drops rows when its memory is full, and other writers add rows: compare them, or delete the dataset and "
            f"the journal {journal.folder} and run the job again"
        )


def _summary(
    job: CorpusJob, journal: PartJournal, parts: Sequence[Part], resumed: int, engines: int, seconds: float
) -> CorpusSummary:
    every = list(journal.done.values())
    by_node: Counter[str] = Counter()
    for done in every:
        by_node[done.node] += done.rows
    rows = sum(part.rows for part in parts)
    return CorpusSummary(
        output=job.sink,
        rows=rows,
        parts=len(parts),
        resumed_rows=resumed,
        written_rows=rows - resumed,
        tokens=sum(done.tokens for done in every),
        truncated_texts=sum(done.truncated for done in every),
        dropped_tokens=sum(done.dropped for done in every),
        space=next((done.space for done in every), ""),
        engines=engines,
        rows_by_node=dict(by_node),
        memory=max((done.memory for done in every), default=0),
        seconds=round(seconds, 3),
        rows_per_second=round((rows - resumed) / seconds, 1),
    )
