"""`FileSink`: output of a corpus job as Parquet files on any file system, one for each part."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fletcher.runtime import Embeddings
from fletcher.runtime.errors import InputError, ServiceError
from fletcher.runtime.options.embed import EmbedOptions

from ...arrow.columns import made_columns
from ...arrow.tables import append_vectors
from .journal import open_folder
from .parts import Part

__all__ = ["TEMPORARY", "FileSink", "remove_temporary"]

#: Bytes of a row group: large enough to compress well, small enough to read one at a time.
ROW_GROUP_BYTES: Final = 32 << 20

#: Folder of incomplete files inside the output. Readers of Parquet leave out names that begin with an underscore.
TEMPORARY: Final = "_fletcher/temporary"


class FileSink:
    """Writer of one part: a temporary file, which gets the part's name when it is complete.

    The name depends on the part alone, so a part that is written twice, for example after an engine died, is one file.
    """

    def __init__(self, folder: str, part: Part, options: EmbedOptions, dimension: int, facts: dict[str, str]) -> None:
        """Prepare; the file is made with the first rows.

        Args:
            folder: folder or URL of the output.
            part: the part.
            options: options of the vectors.
            dimension: elements of the model's vectors.
            facts: facts about the vectors, for the metadata of the schema.
        """
        self._store, root = open_folder(folder)
        self._final = f"{root}/{part.name}.parquet"
        self._temporary = f"{root}/{TEMPORARY}/{part.name}-{secrets.token_hex(6)}.parquet"
        self._options, self._dimension = options, dimension
        self._metadata = {f"fletcher.{name}": value for name, value in facts.items()}
        self._stream: Any = None
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []

    def missing(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        """Return the rows that the output lacks: all of them, because a part is one file."""
        return batch

    def write(self, batch: pa.RecordBatch, embeddings: Embeddings) -> None:
        """Append rows.

        Raises:
            InputError: the input has a column that the output needs.
            ServiceError: the file cannot be written.
        """
        if taken := set(made_columns(self._options)) & set(batch.schema.names):
            raise InputError(
                f"the input has {', '.join(sorted(taken))}, a name that the output needs: rename the column"
            )
        rows = append_vectors(batch, embeddings, self._options, self._dimension)
        self._waiting.append(rows.replace_schema_metadata({**(rows.schema.metadata or {}), **self._metadata}))
        if sum(waiting.nbytes for waiting in self._waiting) >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting)
        self._waiting = []
        try:
            if self._writer is None:
                self._store.create_dir(os.path.dirname(self._temporary), recursive=True)  # noqa: PTH120 (a URL's path)
                self._stream = self._store.open_output_stream(self._temporary)
                # Vectors have few repeated values, so a dictionary saves nothing.
                self._writer = pq.ParquetWriter(self._stream, table.schema, compression="zstd", use_dictionary=False)
            self._writer.write_table(table, row_group_size=max(len(table), 1))
        except OSError as error:
            raise ServiceError(f"{self._temporary} cannot be written: {error}") from error

    def finish(self) -> None:
        """Complete the file, and give it the name of the part. A part without rows has no file.

        Raises:
            ServiceError: the file cannot be written.
        """
        self._flush()
        if self._writer is None:
            return
        try:
            self._writer.close()
            self._stream.close()
            if isinstance(self._store, pafs.LocalFileSystem):
                _sync(self._temporary)
            self._store.move(self._temporary, self._final)
        except OSError as error:
            raise ServiceError(f"{self._final} cannot be written: {error}") from error

    def discard(self) -> None:
        """Remove an incomplete file."""
        if self._writer is None:
            return
        self._writer.is_open = False  # else the writer completes the file when it is collected
        with contextlib.suppress(OSError):  # the job removes what stays
            self._stream.close()
            self._store.delete_file(self._temporary)


def _sync(path: str) -> None:
    """Write a file to the disk, so that a power failure does not leave an empty file under the final name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folder: str) -> None:
    """Remove the files that dead engines left. Call it when all parts are finished."""
    store, root = open_folder(folder)
    path = f"{root}/{TEMPORARY}"
    if store.get_file_info(path).type == pafs.FileType.Directory:
        store.delete_dir(path)
