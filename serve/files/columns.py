"""Texts from files of columns: parquet and Arrow (IPC file and stream). Errors name the row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fletcher.runtime.errors import InputError

from .chunks import CHUNK_CHARACTERS, TextChunk, TextSource, refuse_reserved
from .inputs import is_url, open_input
from .lines import Bad, refuse

__all__ = ["open_arrow", "open_parquet"]


def open_parquet(path: str, stack: ExitStack, column: str, chunk_texts: int, bad: Bad = refuse) -> TextSource:
    """Open the texts of a parquet file. The stack closes the file.

    Args:
        path: path or URL of the file.
        stack: stack that closes the file.
        column: column with the text.
        chunk_texts: largest number of texts in a chunk.
        bad: called for each row whose text is null.

    Raises:
        InputError: the file is not a parquet file, or it has no such column of strings. While the chunks are read: a text is
            null, or the file is damaged.
    """
    with _translated(path, "parquet"):
        opened = stack.enter_context(open_input(path)) if is_url(path) else path
        file = stack.enter_context(pq.ParquetFile(opened))
        batches = file.iter_batches(batch_size=chunk_texts)
        return _source(path, file.metadata.num_rows, file.schema_arrow, batches, column, chunk_texts, bad)


def open_arrow(path: str, stack: ExitStack, column: str, chunk_texts: int, bad: Bad = refuse) -> TextSource:
    """Open the texts of an Arrow IPC file or stream. The stack closes the file.

    Args:
        path, stack, column, chunk_texts, bad: as in `open_parquet`.

    Raises:
        InputError: as in `open_parquet`.
    """
    with open_input(path) as file:
        is_file = file.read(6) == b"ARROW1"
    with _translated(path, "Arrow IPC"):
        source = stack.enter_context(open_input(path) if is_url(path) else pa.memory_map(path))
        if not is_file:
            stream = stack.enter_context(pa.ipc.open_stream(source))
            return _source(path, None, stream.schema, iter(stream), column, chunk_texts, bad)
        reader = stack.enter_context(pa.ipc.open_file(source))
        # Batches of a mapped file cost no memory until their pages are read.
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        return _source(path, None, reader.schema, batches, column, chunk_texts, bad)


@contextmanager
def _translated(path: str, kind: str) -> Iterator[None]:
    """Translate pyarrow's errors about the content of a file to `InputError`. Errors of the operating system pass."""
    try:
        yield
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a complete {kind} file: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # pyarrow reports damaged pages as an OSError without a number.
        raise InputError(f"{path} is not a complete {kind} file: {error}") from error


def _source(
    path: str,
    total: int | None,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    column: str,
    chunk_texts: int,
    bad: Bad,
) -> TextSource:
    if schema.names.count(column) != 1:
        raise InputError(
            f"{path} does not have one column {column!r}; it has {', '.join(map(repr, schema.names))}. See --column"
        )
    kind = schema.field(column).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        raise InputError(f"{path}: the column {column!r} holds {kind}, and must hold strings")
    others = [name for name in schema.names if name != column]
    refuse_reserved(path, others, column)
    carried = pa.schema([_without_dictionary(schema.field(name)) for name in others])

    def chunks() -> Iterator[TextChunk]:
        first_row = 0
        with _translated(path, "parquet or Arrow"):
            for batch in batches:
                for rows in _slices(batch, column, chunk_texts):
                    part = _without_nulls(rows, column, path, first_row, bad)
                    texts = _texts_of(part.column(column), path, first_row, column)
                    columns = [part.column(name).cast(carried.field(name).type) for name in others]
                    yield TextChunk(first_row, texts, pa.RecordBatch.from_arrays(columns, schema=carried))
                    first_row += rows.num_rows

    return TextSource(path, total, carried, chunks())


def _without_dictionary(field: pa.Field) -> pa.Field:
    """Return a field of plain values. Dictionaries may change from batch to batch, which an Arrow file cannot hold."""
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _slices(batch: pa.RecordBatch, column: str, chunk_texts: int) -> Iterator[pa.RecordBatch]:
    """Yield parts of a batch that are not larger than a chunk, in texts and in bytes."""
    start = 0
    while start < batch.num_rows:
        part = batch.slice(start, chunk_texts)
        while part.num_rows > 1 and part.column(column).nbytes > CHUNK_CHARACTERS:
            part = part.slice(0, part.num_rows // 2)
        yield part
        start += part.num_rows


def _without_nulls(part: pa.RecordBatch, column: str, path: str, first_row: int, bad: Bad) -> pa.RecordBatch:
    """Return the rows that have a text. Call `bad` for each other row."""
    values = part.column(column)
    if not values.null_count:
        return part
    for row in pc.indices_nonzero(values.is_null()).to_pylist():
        message = f"{path}, row {first_row + row} (from 0): {column!r} is null; fill it or leave the row out"
        bad(InputError(message), b"")
    return part.filter(values.is_valid())


def _texts_of(values: pa.Array, path: str, first_row: int, column: str) -> list[str]:
    try:
        texts: list[str] = values.to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, rows {first_row} to {first_row + len(values) - 1}: not UTF-8: {error}") from error
    return texts
