"""Files of vectors: npy, parquet and Arrow. A file gets its name only when it is complete. The module does not use models."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fletcher.runtime import Embeddings, TextOutputs
from fletcher.runtime.artifact.durable import new_file
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions

from ..arrow.columns import VECTOR_COLUMN, Widths, made_columns, vector_columns, vector_fields
from .chunks import TextChunk

__all__ = ["VECTOR_SUFFIXES", "VectorWriter", "open_vectors"]

VECTOR_SUFFIXES: Final = (".npy", ".parquet", ".arrow")

_NPY_TYPES: Final = {"float32": "<f4", "float16": "<f2", "ubinary": "|u1"}

#: Bytes of a parquet row group: large enough to compress well, small enough to read one at a time.
ROW_GROUP_BYTES: Final = 32 * 2**20


class VectorWriter(Protocol):
    """Writer of a file of vectors. It gets the chunks in the order of the file."""

    def write(self, chunk: TextChunk, embeddings: Embeddings | TextOutputs) -> None:
        """Append a chunk.

        Args:
            chunk: texts and the other columns.
            embeddings: embeddings of these texts.
        """

    def finish(self) -> None:
        """Complete the content of the file."""

    def discard(self) -> None:
        """Stop without writing to the file again."""


@contextmanager
def open_vectors(
    path: Path,
    dimension: int | Widths,
    carried: pa.Schema,
    options: EmbedOptions,
    facts: Mapping[str, str] = MappingProxyType({}),
    *,
    force: bool = False,
) -> Iterator[VectorWriter]:
    """Open a writer for the format of the suffix.

    A `.npy` file has only the vectors; the facts are in a JSON file beside it, `NAME.npy.json`. The other formats have the
    facts in their schema's metadata. A `.parquet` (zstd) or `.arrow` (IPC) file has the columns `id`, `text`, those of
    `vector_fields`, and the carried columns.

    The content goes to a temporary file in the same folder. At the end, the temporary file is renamed to `path`. It is
    removed if there is an error before.

    Args:
        path: path of the file to write.
        dimension: number of elements of a vector, or these and the further outputs.
        carried: schema of the columns beside the texts; a column `id` replaces the row number.
        options: options of the vectors.
        facts: facts about the vectors, such as their space, by name.
        force: whether an existing file is replaced.

    Raises:
        InputError: the suffix is unknown, the folder does not exist, the file exists, or a column has a name that the output
            needs.
        OSError: the file cannot be written, for example because the disk is full.
    """
    if path.suffix.lower() not in VECTOR_SUFFIXES:
        raise InputError(
            f"{path}: the suffix {path.suffix!r} is not supported for vectors; use {', '.join(VECTOR_SUFFIXES)}"
        )
    if path.suffix.lower() == ".npy" and options.dtype == "int8":
        raise InputError(f"{path}: a .npy file cannot hold the scales of int8 vectors: write .parquet or .arrow")
    widths = Widths(dimension) if isinstance(dimension, int) else dimension
    if path.suffix.lower() == ".npy" and widths.output != "vectors":
        raise InputError(f"{path}: a .npy file holds vectors alone: write .parquet or .arrow")
    if taken := set(made_columns(options, widths.output)) & set(carried.names):
        raise InputError(f"{path}: the input has {', '.join(sorted(taken))}, a name that the output needs")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    beside = path.with_name(f"{path.name}.json") if facts and path.suffix.lower() == ".npy" else None
    for result in (path, beside):
        if result is not None:
            _refuse_existing(result, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("xb") as file:
            writer = _open_writer(path.suffix.lower(), file, _output_schema(widths, carried, options, facts), options)
            try:
                yield writer
                writer.finish()
            except BaseException:
                writer.discard()
                raise
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(path, force=force)
        if beside is not None:
            _write_beside(beside, facts)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_existing(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another name, or replace it with --force")


def _write_beside(path: Path, facts: Mapping[str, str]) -> None:
    """Write facts about a file of vectors as JSON, atomically."""
    with new_file(path) as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")


def _open_writer(suffix: str, file: IO[bytes], schema: pa.Schema, options: EmbedOptions) -> VectorWriter:
    if suffix == ".npy":
        kind = schema.field(VECTOR_COLUMN).type
        columns = kind.byte_width if options.dtype == "ubinary" else kind.list_size
        return _NpyWriter(file, columns, _NPY_TYPES[options.dtype])
    return _ParquetWriter(file, schema) if suffix == ".parquet" else _ArrowWriter(file, schema)


class _NpyWriter:
    """Writer of a .npy file. It writes the header again at the end, when the number of rows is known."""

    def __init__(self, file: IO[bytes], dimension: int, dtype: str) -> None:
        self._file = file
        self._dimension = dimension
        self._dtype = dtype
        self._rows = 0
        self._header()

    def _header(self) -> None:
        # numpy pads the header for a first axis of any length, so the second header has the size of the first.
        shape = (self._rows, self._dimension)
        np.lib.format.write_array_header_1_0(self._file, {"descr": self._dtype, "fortran_order": False, "shape": shape})

    def write(self, chunk: TextChunk, embeddings: Embeddings | TextOutputs) -> None:
        assert isinstance(embeddings, Embeddings)  # `open_vectors` refuses further outputs
        self._file.write(np.ascontiguousarray(embeddings.vectors, self._dtype).data)
        self._rows += len(chunk.texts)

    def finish(self) -> None:
        self._file.seek(0)
        self._header()

    def discard(self) -> None:
        """Do nothing: `write` does not buffer."""


class _Sink(io.RawIOBase):
    """Output of a parquet writer: the file, until `drop_writes`.

    A parquet writer completes its file when it is garbage-collected. Without this class it would then write to a closed file,
    and no code could catch the error.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file: IO[bytes] | None = file

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return len(data) if self._file is None else self._file.write(data)

    def drop_writes(self) -> None:
        """Ignore everything that is written from now on."""
        self._file = None


class _ParquetWriter:
    """Writer of a parquet file. It collects chunks into row groups."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = _Sink(file)
        # Vectors have few repeated values, so a dictionary saves nothing.
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", use_dictionary=False)
        self._waiting: list[pa.RecordBatch] = []

    def write(self, chunk: TextChunk, embeddings: Embeddings | TextOutputs) -> None:
        self._waiting.append(_output_batch(self._schema, chunk, embeddings))
        if sum(batch.nbytes for batch in self._waiting) >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting = []
        self._writer.write_table(table, row_group_size=max(len(table), 1))

    def finish(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()

    def discard(self) -> None:
        self._sink.drop_writes()
        self._writer.is_open = False


class _ArrowWriter:
    """Writer of an Arrow IPC file."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pa.ipc.new_file(file, schema)

    def write(self, chunk: TextChunk, embeddings: Embeddings | TextOutputs) -> None:
        self._writer.write_batch(_output_batch(self._schema, chunk, embeddings))

    def finish(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        """Do nothing: the writer writes only when it is called."""


def _output_schema(widths: Widths, carried: pa.Schema, options: EmbedOptions, facts: Mapping[str, str]) -> pa.Schema:
    id_field = carried.field("id") if "id" in carried.names else pa.field("id", pa.int64(), nullable=False)
    fields = [id_field, pa.field("text", pa.string(), nullable=False), *vector_fields(widths, options)]
    metadata = {f"fletcher.{name}": value for name, value in facts.items()}
    return pa.schema([*fields, *(field for field in carried if field.name != "id")], metadata=metadata or None)


def _output_batch(schema: pa.Schema, chunk: TextChunk, embeddings: Embeddings | TextOutputs) -> pa.RecordBatch:
    carried = chunk.carried.schema.names
    fields = [field for field in schema if field.name not in ("id", "text", *carried)]
    columns = vector_columns(embeddings, fields)
    added = {
        "id": pa.array(np.arange(chunk.first_row, chunk.first_row + len(chunk.texts), dtype=np.int64)),
        "text": pa.array(chunk.texts, pa.string()),
        **{field.name: column for field, column in zip(fields, columns, strict=True)},
    }
    columns = [chunk.carried.column(name) if name in carried else added[name] for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
