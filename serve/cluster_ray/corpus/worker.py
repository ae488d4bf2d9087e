"""`PartEmbedder`: an engine of a corpus job. Ray Data makes one in each process of its pool and gives it parts."""

from __future__ import annotations

import atexit
import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec
import pyarrow as pa

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime import Embeddings, Encoder
from fletcher.runtime.errors import FletcherError, InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.options.load import LoadOptions

from ...arrow.tables import column_texts
from ...files.options import InputOptions
from ...longbow.options import LongbowOptions
from ..measure import peak_memory
from .files import FileSink
from .journal import Done
from .longbow import LongbowSink
from .parts import Part, read_part

__all__ = ["PartEmbedder", "PartSink", "WorkerJob", "embed_part"]


class WorkerJob(msgspec.Struct, frozen=True):
    """Description of a job for its engines.

    Attributes:
        artifact: folder or URL of the artifact.
        load: options of loading.
        options: options of the vectors.
        inputs: format of the input.
        identity: name of the job.
        folder: folder or URL of the output; empty for Longbow.
        longbow: Longbow and the dataset, or None for files.
        id_column: column of ids for Longbow, or None.
        with_text: whether Longbow stores the texts.
        resumed: whether an earlier run may have begun any part.
    """

    artifact: str
    load: LoadOptions
    options: EmbedOptions
    inputs: InputOptions
    identity: str
    folder: str = ""
    longbow: LongbowOptions | None = None
    id_column: str | None = None
    with_text: bool = True
    resumed: bool = False


class PartSink(Protocol):
    """Writer of one part."""

    def missing(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch: ...

    def write(self, batch: pa.RecordBatch, embeddings: Embeddings) -> None: ...

    def finish(self) -> None: ...

    def discard(self) -> None: ...


class PartEmbedder:
    """A callable from a table with parts, column `part` as JSON, to a table with `Done`, column `done` as JSON."""

    def __init__(self, job: bytes, attempts: Any = None) -> None:
        """Load the model.

        Args:
            job: `WorkerJob` as JSON.
            attempts: handle of the actor `Attempts`, or None without Longbow.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        self._job = decode_json(job, WorkerJob)
        self._attempts = attempts
        self._encoder = Encoder.load(self._job.artifact, self._job.load)
        atexit.register(self._encoder.close)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embed parts. An error is part of the answer, because exceptions of Ray's tasks lose their type."""
        parts = [decode_json(text, Part) for text in table.column("part").to_pylist()]
        answers = [msgspec.json.encode(self._embed(part)).decode() for part in parts]
        return pa.table({"done": pa.array(answers, pa.string())})

    def _embed(self, part: Part) -> Done:
        again = self._job.resumed or self._begun_before(part)
        try:
            return embed_part(
                self._encoder, self._job, part, lambda: _open_sink(self._encoder, self._job, part, again=again)
            )
        except (FletcherError, OSError) as error:
            text = f"{part.path}, {part.name}: {error}"
            return Done(part.number, node=platform.node(), error=text, by_input=isinstance(error, InputError))

    def _begun_before(self, part: Part) -> bool:
        if self._attempts is None:
            return False
        import ray

        return bool(ray.get(self._attempts.begin.remote(part.number)))


def embed_part(encoder: Encoder, job: WorkerJob, part: Part, open_sink: Callable[[], PartSink]) -> Done:
    """Embed a part and write it. While a chunk is computed, the next one is read and tokenized.

    Raises:
        InputError: the input cannot be used, or was changed since the job was planned.
        ServiceError: the output does not take the rows.
    """
    started, cpu = time.perf_counter(), time.process_time()
    waiting: deque[pa.RecordBatch] = deque()
    sink = open_sink()
    rows = written = tokens = truncated = dropped = 0

    def chunks() -> Iterator[list[str]]:
        nonlocal rows
        for batch in read_part(part, job.inputs):
            missing = sink.missing(batch, part.first_row + rows)
            texts = column_texts(missing, job.inputs.column, rows, part.path)
            rows += batch.num_rows
            if texts:
                waiting.append(missing)
                yield texts

    try:
        for embeddings in encoder.stream(chunks(), job.options):
            batch = waiting.popleft()
            sink.write(batch, embeddings)
            written += batch.num_rows
            tokens += int(embeddings.tokens.sum())
            truncated += int((embeddings.dropped > 0).sum())
            dropped += int(embeddings.dropped.sum())
        if rows != part.rows:
            raise InputError(
                f"{rows} rows were read, and there were {part.rows} when the job began: the file was changed"
            )
        sink.finish()
    except BaseException:
        sink.discard()
        raise
    info = encoder.info
    return Done(
        number=part.number,
        rows=rows,
        written=written,
        tokens=tokens,
        truncated=truncated,
        dropped=dropped,
        node=platform.node(),
        space=info.spaces.of(job.options),
        provider=info.provider,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu,
        memory=peak_memory(),
    )


def _open_sink(encoder: Encoder, job: WorkerJob, part: Part, *, again: bool) -> PartSink:
    info = encoder.info
    facts = {
        "model": info.card.name,
        "digest": info.digest,
        "variant": info.variant,
        "space": info.spaces.of(job.options),
        "input_type": job.options.input_type or "document",
    }
    if job.longbow is None:
        return FileSink(job.folder, part, job.options, info.dimension, facts)
    return LongbowSink(
        job.longbow,
        part,
        job.identity,
        job.options.dimensions or info.dimension,
        columns=(job.inputs.column, job.id_column),
        with_text=job.with_text,
        again=again,
        facts=facts,
    )
