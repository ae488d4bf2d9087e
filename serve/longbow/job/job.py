"""`Ingestion`: a run of an ingest job, which embeds documents and sends each to Longbow once. `summary` has the counts."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import Counter
from fletcher.runtime import Embeddings, Encoder
from fletcher.runtime.errors import FletcherError, InputError

from ...files.chunks import TextChunk, TextSource
from ..journal.ids import digester, key_of, whole_number
from ..journal.journal import Claim, Entry, Journal
from ..wire.connection import Connection
from ..wire.presence import metadata_head
from ..wire.removed import remove_rows
from ..wire.schema import cosine_loss, longbow_schema, make_batch, widen
from ..wire.sink import Parcel, Sink
from ..wire.target import Target
from .adopt import adopt
from .audit import Census, count_up, settle
from .capacity import CapacityWatch
from .documents import DeadLetters
from .spec import Job
from .summary import Counts, IngestSummary

__all__ = ["Ingestion", "journal_facts"]


def journal_facts(encoder: Encoder, job: Job) -> dict[str, str]:
    """Return the facts that identify a journal's job. Rows with other facts must not be in the same dataset."""
    return {
        "dataset": job.longbow.dataset,
        "model": encoder.info.card.name,
        "model_digest": encoder.info.digest,
        "variant": encoder.info.variant,
        "embed_options": job.embed.identity,
        "id_column": job.options.id_column or "",
        "with_text": str(job.options.with_text),
    }


_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


class Ingestion:
    """One run of a job on one source."""

    def __init__(
        self,
        encoder: Encoder,
        job: Job,
        source: TextSource,
        journal: Journal,
        letters: DeadLetters,
        *,
        watch: CapacityWatch,
        progress: Counter,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Prepare a run.

        Args:
            encoder: the model.
            job: dataset and options.
            source: documents.
            journal: state of every document, before and during the run.
            letters: receiver of rows that cannot be used.
            watch: load of Longbow.
            progress: counter of acknowledged rows and tokens.
            warn: called with messages for the user.
        """
        self._encoder = encoder
        self._source = source
        self._job = job
        self._target = Target.of(job.longbow, job.options.trace)
        self._dataset = job.longbow.dataset
        self._journal = journal
        self._letters = letters
        self._options = job.options
        self._watch = watch
        self._progress = progress
        self._counts = Counts()
        self._digest = digester(repr(sorted(journal_facts(encoder, job).items())).encode())
        self._constant = {
            "model": encoder.info.card.name,
            "digest": encoder.info.digest,
            "variant": encoder.info.variant,
            "space": encoder.info.spaces.of(job.embed),
            "input_type": job.embed.input_type or "document",
            **({"trace": job.options.trace} if job.options.trace else {}),
            "source": source.name,
            "chunk": 0,
        }
        self._waiting: deque[tuple[TextChunk, Claim]] = deque()
        self._sizes: dict[int, tuple[int, int, int]] = {}  # by unit: rows, tokens, rows replaced
        self._lock = threading.Lock()
        self._warn = warn
        self._sink: Sink | None = None

    def run(self) -> IngestSummary:
        """Run the job.

        Raises:
            InputError: the options, the input or the dataset cannot be used.
            ServiceError: Longbow was not reachable for too long. Run the job again to continue.
        """
        options, counts = self._options, self._counts
        self._encoder.info.check(self._job.embed)
        if options.id_column is not None and options.id_column not in self._source.schema.names:
            names = ", ".join(map(repr, self._source.schema.names)) or "none"
            raise InputError(f"{self._source.name} has no column {options.id_column!r} for ids; it has {names}")
        started = time.monotonic()
        if options.dry_run:
            for _ in self._claimed():
                self._waiting.clear()
            counts.sent = counts.read - counts.known - counts.duplicates - self._failed
            return self._summary(time.monotonic() - started, 0, Census())
        with Connection(self._target) as connection:
            dimension = self._job.embed.dimensions or self._encoder.info.dimension
            schema = longbow_schema(dimension, with_text=options.with_text)
            unknown = settle(connection, self._dataset, schema, self._journal, self._job.sink.patience)
            if options.adopt:
                identity = {name: self._constant[name] for name in ("digest", "variant", "input_type")}
                adopt(connection, self._dataset, self._journal, identity, self._entry)
            elif unknown:
                self._warn(
                    f"{self._dataset} has {unknown:,} rows, and the journal {self._journal.path} is new: a document that the "
                    "dataset has already will be stored twice. To build the journal from the dataset, delete this journal "
                    "and use --adopt"
                )
            with Sink(
                self._target,
                self._dataset,
                schema,
                self._journal,
                self._job.sink,
                on_done=self._done,
                hold=self._watch.hold,
            ) as sink:
                self._sink = sink
                try:
                    for embeddings in self._encoder.stream(self._claimed(), self._job.embed):
                        chunk, claim = self._waiting.popleft()
                        sink.send(self._parcel(schema, chunk, claim, embeddings))
                except FletcherError:
                    sink.flush()  # wait for the rows that were sent, so that none is in doubt
                    raise
                sink.flush()
                retries = sink.retries
            if options.remove_missing:
                self._remove(connection)
            census = count_up(connection, self._dataset, self._journal, self._job.sink.patience)
        return self._summary(time.monotonic() - started, retries, census)

    def status(self) -> str:
        """Return a note for the progress line."""
        sink = self._sink
        parts = [f"{sink.open_parcels} batches queued, {sink.retries} retries" if sink is not None else ""]
        parts.append(self._watch.status())
        return ", ".join(part for part in parts if part)

    # Documents --------------------------------------------------------------------------------------------------------

    def _claimed(self) -> Iterator[list[str]]:
        """Yield the texts to embed, chunk by chunk. Append their chunks to `_waiting`."""
        for chunk in self._source.chunks:
            rows, entries = self._entries(chunk)
            claim = self._journal.claim(entries, dry=self._options.dry_run)
            keep = []
            for row, verdict in zip(rows, claim.verdicts, strict=True):
                if verdict.kind == "send":
                    keep.append(row)
                elif verdict.kind == "known":
                    self._counts.known += 1
                    self._advance(1, 0)
                elif verdict.kind == "duplicate":
                    self._counts.duplicates += 1
                    self._advance(1, 0)
                else:
                    error = InputError(
                        f"{self._source.name}, row {chunk.first_row + row} (from 0): an earlier row of the input has the "
                        "same id and another text; the earlier row is kept"
                    )
                    self._fail(chunk, row, error)
            if not keep:
                continue
            verdicts = [verdict for verdict in claim.verdicts if verdict.kind == "send"]
            carried = chunk.carried
            if len(carried.schema):
                carried = carried.take(np.array(keep, np.int64))
            texts = chunk.texts if len(keep) == len(chunk.texts) else [chunk.texts[row] for row in keep]
            self._waiting.append((TextChunk(chunk.first_row, texts, carried), replace(claim, verdicts=verdicts)))
            yield texts

    def _entries(self, chunk: TextChunk) -> tuple[list[int], list[Entry]]:
        """Return the rows of a chunk that can be used, and their entries for the journal."""
        self._counts.read += len(chunk.texts)
        names = None
        if self._options.id_column is not None:
            names = chunk.carried.column(self._options.id_column).to_pylist()
        rows, entries = [], []
        for row, text in enumerate(chunk.texts):
            if not text or text.isspace():
                where = f"{self._source.name}, row {chunk.first_row + row} (from 0)"
                self._fail(chunk, row, InputError(f"{where}: there is no text"))
                continue
            try:
                entry = self._entry(text, {self._options.id_column: names[row]} if names is not None else {})
            except InputError as error:
                where = f"{self._source.name}, row {chunk.first_row + row} (from 0)"
                self._fail(chunk, row, InputError(f"{where}: {error}"))
                continue
            rows.append(row)
            entries.append(entry)
        return rows, entries

    def _entry(self, text: str, columns: Mapping[Any, Any]) -> Entry:
        """Return the journal's entry of a document.

        Raises:
            InputError: the document has no id, or the id is out of range.
        """
        digest = self._digest(text)
        column = self._options.id_column
        return Entry(digest, digest) if column is None else _named_entry(columns.get(column), digest)

    def _fail(self, chunk: TextChunk, row: int, error: InputError) -> None:
        self._counts.failed += 1
        self._advance(1, 0)
        others = chunk.carried.slice(row, 1).to_pylist()[0] if len(chunk.carried.schema) else {}
        self._letters.add(error, chunk.texts[row], others)

    @property
    def _failed(self) -> int:
        """Number of rows of chunks that failed, without the rows that could not be read (`DeadLetters` counts all)."""
        return self._counts.failed

    def _parcel(self, schema: Any, chunk: TextChunk, claim: Claim, embeddings: Embeddings) -> Parcel:
        self._counts.cosine_loss = max(self._counts.cosine_loss, cosine_loss(embeddings))
        vectors = widen(embeddings, allow_unnormalized=self._options.allow_unnormalized)
        ids: NDArray[np.int64] = np.array([verdict.id for verdict in claim.verdicts], np.int64)
        counts, tokens = self._counts, int(embeddings.tokens.sum())
        counts.tokens += tokens
        counts.truncated += int(np.count_nonzero(embeddings.dropped))
        counts.dropped += int(embeddings.dropped.sum())
        stale = [verdict.id for verdict in claim.verdicts if verdict.stale]
        counts.replaced += len(stale)
        self._sizes[claim.unit] = len(ids), tokens, len(stale)
        mark = self._journal.mark(claim.unit)
        metadata = self._metadata(chunk, metadata_head(mark, self._constant))
        return Parcel(claim.unit, mark, make_batch(schema, ids, vectors, chunk.texts, metadata), stale)

    def _metadata(self, chunk: TextChunk, head: str) -> list[str]:
        if not len(chunk.carried.schema):
            return [head + "}"] * len(chunk.texts)
        head += ',"fields":'
        return [head + _encode(fields).decode() + "}" for fields in chunk.carried.to_pylist()]

    def _done(self, parcel: Parcel) -> None:
        rows, tokens, replaced = self._sizes.pop(parcel.unit)
        if replaced:
            self._journal.add("deleted", replaced)
        with self._lock:
            self._counts.sent += rows
        self._advance(rows, tokens)

    def _advance(self, rows: int, tokens: int) -> None:
        with self._lock:
            self._progress.advance(rows, tokens)

    # End of a run -----------------------------------------------------------------------------------------------------

    def _remove(self, connection: Connection) -> None:
        """Delete the documents that the input no longer has."""
        for ids in self._journal.unseen():
            remove_rows(connection, self._dataset, ids)
            self._journal.remove(ids)
            self._journal.add("deleted", len(ids))
            self._counts.removed += len(ids)

    def _summary(self, seconds: float, retries: int, census: Census) -> IngestSummary:
        counts, seconds = self._counts, max(seconds, 1e-9)
        unread = self._letters.count - self._failed
        return IngestSummary(
            dataset=self._dataset,
            model=self._encoder.info.card.name,
            variant=self._encoder.info.variant,
            read=counts.read + unread,
            sent=counts.sent,
            replaced=counts.replaced,
            known=counts.known,
            duplicates=counts.duplicates,
            failed=self._letters.count,
            removed=counts.removed,
            tokens=counts.tokens,
            truncated_texts=counts.truncated,
            dropped_tokens=counts.dropped,
            cosine_loss=counts.cosine_loss,
            retries=retries,
            index_len=census.index_len,
            missing=census.missing,
            doubled=census.doubled,
            surplus=census.surplus,
            tombstones=self._journal.count("deleted"),
            memory_share=self._watch.highest_share,
            seconds=round(seconds, 3),
            rows_per_second=round(counts.sent / seconds, 1),
            tokens_per_second=round(counts.tokens / seconds, 1),
        )


def _named_entry(name: object, digest: bytes) -> Entry:
    """Return the entry of a document whose id the user gives.

    Raises:
        InputError: the id is missing, or out of range.
    """
    if name is None or name == "":
        raise InputError("the id is missing")
    if isinstance(name, str):
        return Entry(key_of(name), digest)
    number = whole_number(name)
    return Entry(b"fletcher-id:" + number.to_bytes(4, "big"), digest, number)
