"""Vectors to files: npy, parquet, Arrow. A file appears under its name whole or not at all. Knows nothing of models."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions

from ..arrow.columns import made_columns, vector_columns, vector_fields
from .chunks import TextChunk

__all__ = ["VECTOR_SUFFIXES", "VectorWriter", "open_vectors"]

VECTOR_SUFFIXES: Final = (".npy", ".parquet", ".arrow")

_NPY_TYPES: Final = {"float32": "<f4", "float16": "<f2", "ubinary": "|u1"}

#: Bytes of a parquet row group: large enough to compress well, small enough to read one at a time.
ROW_GROUP_BYTES: Final = 32 * 2**20


class VectorWriter(Protocol):
    """Takes chunks in the order of the file."""

    def write(self, chunk: TextChunk, embeddings: Embeddings) -> None:
        """Appends a chunk.

        Args:
            chunk: texts and the columns beside them.
            embeddings: theirs.
        """

    def finish(self) -> None:
        """Completes the file's content."""

    def discard(self) -> None:
        """Lets go of the file without another write."""


@contextmanager
def open_vectors(
    path: Path, dimension: int, carried: pa.Schema, options: EmbedOptions, *, force: bool = False
) -> Iterator[VectorWriter]:
    """A writer for the format that the suffix names: `.npy`, the texts' vectors alone, or the columns `id`, `text`, those of
    `vector_fields` and the carried ones as `.parquet` (zstd) or `.arrow` (IPC file).

    The content goes to a temporary file beside the target, which takes the target's name at the end, and is removed if
    anything fails before.

    Args:
        path: the file to write.
        dimension: length of a vector.
        carried: columns beside the texts; an `id` among them replaces the row number.
        options: that the vectors are made with.
        force: replace a file that exists.

    Raises:
        InputError: an unknown suffix, no such folder, or the file exists.
        OSError: it cannot be written, for example because the disk is full.
    """
    if path.suffix.lower() not in VECTOR_SUFFIXES:
        raise InputError(
            f"{path}: the suffix {path.suffix!r} names no format of vectors; use {', '.join(VECTOR_SUFFIXES)}"
        )
    if path.suffix.lower() == ".npy" and options.dtype == "int8":
        raise InputError(f"{path}: a .npy file has no place for the scales of int8 vectors: write .parquet or .arrow")
    if taken := set(made_columns(options)) & set(carried.names):
        raise InputError(f"{path}: the input has {', '.join(sorted(taken))} already, a name that the output needs")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    _refuse_existing(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("xb") as file:
            writer = _open_writer(path.suffix.lower(), file, dimension, carried, options)
            try:
                yield writer
                writer.finish()
            except BaseException:
                writer.discard()
                raise
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(path, force=force)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_existing(path: Path, *, force: bool) -> None:
    if path.exists() and not force:
        raise InputError(f"{path} exists; choose another name, or replace it with --force")


def _open_writer(
    suffix: str, file: IO[bytes], dimension: int, carried: pa.Schema, options: EmbedOptions
) -> VectorWriter:
    if suffix == ".npy":
        columns = dimension // 8 if options.dtype == "ubinary" else dimension
        return _NpyWriter(file, columns, _NPY_TYPES[options.dtype])
    schema = _output_schema(dimension, carried, options)
    return _ParquetWriter(file, schema) if suffix == ".parquet" else _ArrowWriter(file, schema)


class _NpyWriter:
    """The header's place is kept free at the start and filled once the number of rows is known."""

    def __init__(self, file: IO[bytes], dimension: int, dtype: str) -> None:
        self._file = file
        self._dimension = dimension
        self._dtype = dtype
        self._rows = 0
        self._header()

    def _header(self) -> None:
        # numpy pads the header for a first axis of any length, so the second writing covers the first exactly.
        shape = (self._rows, self._dimension)
        np.lib.format.write_array_header_1_0(self._file, {"descr": self._dtype, "fortran_order": False, "shape": shape})

    def write(self, chunk: TextChunk, embeddings: Embeddings) -> None:
        self._file.write(np.ascontiguousarray(embeddings.vectors, self._dtype).data)
        self._rows += len(chunk.texts)

    def finish(self) -> None:
        self._file.seek(0)
        self._header()

    def discard(self) -> None:
        """Nothing is held back."""


class _Sink(io.RawIOBase):
    """What pyarrow writes to: the file, until it is let go.

    A parquet writer completes its file when it is collected, whenever that is: without this it would then write to a closed
    file and fail where nobody can catch it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file: IO[bytes] | None = file

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return len(data) if self._file is None else self._file.write(data)

    def let_go(self) -> None:
        """Everything written from now on goes nowhere."""
        self._file = None


class _ParquetWriter:
    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._schema = schema
        self._sink = _Sink(file)
        # Vectors have no repeated values for a dictionary to save.
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd", use_dictionary=False)
        self._waiting: list[pa.RecordBatch] = []

    def write(self, chunk: TextChunk, embeddings: Embeddings) -> None:
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
        self._sink.let_go()
        self._writer.is_open = False


class _ArrowWriter:
    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pa.ipc.new_file(file, schema)

    def write(self, chunk: TextChunk, embeddings: Embeddings) -> None:
        self._writer.write_batch(_output_batch(self._schema, chunk, embeddings))

    def finish(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        """It writes nothing of its own accord."""


def _output_schema(dimension: int, carried: pa.Schema, options: EmbedOptions) -> pa.Schema:
    own_id = carried.field("id") if "id" in carried.names else pa.field("id", pa.int64(), nullable=False)
    fields = [own_id, pa.field("text", pa.string(), nullable=False), *vector_fields(dimension, options)]
    return pa.schema([*fields, *(field for field in carried if field.name != "id")])


def _output_batch(schema: pa.Schema, chunk: TextChunk, embeddings: Embeddings) -> pa.RecordBatch:
    carried = chunk.carried.schema.names
    fields = [field for field in schema if field.name not in ("id", "text", *carried)]
    columns = vector_columns(embeddings, fields)
    made = {
        "id": pa.array(np.arange(chunk.first_row, chunk.first_row + len(chunk.texts), dtype=np.int64)),
        "text": pa.array(chunk.texts, pa.string()),
        **{field.name: column for field, column in zip(fields, columns, strict=True)},
    }
    columns = [chunk.carried.column(name) if name in carried else made[name] for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
