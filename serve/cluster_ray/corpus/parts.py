"""`Part`: rows of a file that one engine embeds and that are written as one unit. Planning and reading of parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import FletcherError, InputError

from ...files.inputs import filesystem, is_url, open_input
from ...files.options import InputOptions
from ...files.texts import open_texts

__all__ = ["Part", "Planned", "find_files", "plan_file", "read_part"]

#: Suffixes of files of a folder that are read.
SUFFIXES: Final = (".parquet", ".arrow", ".arrows", ".feather", ".ipc", ".jsonl", ".ndjson", ".csv", ".txt")

PARQUET: Final = ".parquet"
ARROW: Final = (".arrow", ".feather", ".ipc")


class Part(msgspec.Struct, frozen=True):
    """Rows of a file.

    Attributes:
        number: number of the part in the job, from 0, in the order of the input.
        path: path or URL of the file.
        first_row: number of its first row in the input.
        rows: number of rows.
        groups: first row group (Parquet) or batch (Arrow) of the part and the one after its last; None for the whole file.
    """

    number: int
    path: str
    first_row: int
    rows: int
    groups: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Name of the part in files and messages; names sort in the order of the input."""
        return f"part-{self.number:06d}"


class Planned(msgspec.Struct, frozen=True):
    """Parts of one file: their rows and groups, in order; or the reason why the file cannot be read."""

    parts: tuple[tuple[int, tuple[int, int] | None], ...] = ()
    problem: str = ""


def find_files(source: str) -> list[str]:
    """Return the files of a source, in order: the file itself, or all files of a folder and its folders.

    Args:
        source: path or URL of a file or a folder.

    Raises:
        InputError: there is no such file or folder, or the folder has no file that can be read.
    """
    store, root = filesystem(source) if is_url(source) else (pafs.LocalFileSystem(), str(Path(source).absolute()))
    prefix = source[: len(source) - len(root)] if is_url(source) and source.endswith(root) else None
    try:
        info = store.get_file_info(root)
        if info.type == pafs.FileType.NotFound:
            raise InputError(f"{source}: no such file or folder")
        if info.type == pafs.FileType.File:
            return [source if is_url(source) else root]
        entries = store.get_file_info(pafs.FileSelector(root, recursive=True))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source} cannot be reached: {error}") from error
    files = sorted(one.path for one in entries if one.type == pafs.FileType.File and _is_read(one.path, root))
    if not files:
        raise InputError(f"{source} has no file that ends in {', '.join(SUFFIXES)}")
    if not is_url(source):
        return files
    if prefix is None:
        raise InputError(f"{source} cannot be listed: name its files one by one, or a URL without a query")
    return [f"{prefix}{file}" for file in files]


def _is_read(path: str, root: str) -> bool:
    """Return whether a file of a folder belongs to the input. Names that begin with _ or . are those of jobs and tools."""
    inside = Path(path[len(root) :].lstrip("/"))
    hidden = any(word.startswith(("_", ".")) for word in inside.parts)
    return not hidden and inside.suffix.lower() in SUFFIXES


class FileQuestion(msgspec.Struct, frozen=True):
    """A file to plan: its path, the rows of a part at most, and the options of the input."""

    path: str
    part_rows: int
    inputs: InputOptions


def plan_file(question: bytes) -> bytes:
    """Return the `Planned` of a file as JSON; a task of the cluster runs it.

    Args:
        question: `FileQuestion` as JSON.
    """
    asked = decode_json(question, FileQuestion)
    try:
        return msgspec.json.encode(Planned(tuple(_plan(asked))))
    except (FletcherError, OSError) as error:
        return msgspec.json.encode(Planned(problem=str(error)))


def _plan(asked: FileQuestion) -> Iterator[tuple[int, tuple[int, int] | None]]:
    sizes = _group_rows(asked.path, asked.inputs)
    if sizes is None:
        with open_texts(asked.path, text_format=asked.inputs.text_format, column=asked.inputs.column) as source:
            total = source.total
            yield sum(len(chunk.texts) for chunk in source.chunks) if total is None else total, None
        return
    start = rows = 0
    for index, size in enumerate(sizes):
        if rows and rows + size > asked.part_rows:
            yield rows, (start, index)
            start, rows = index, 0
        rows += size
    if rows or not sizes:
        yield rows, (start, len(sizes))


def _group_rows(path: str, inputs: InputOptions) -> list[int] | None:
    """Return the rows of each row group or batch of a file; None for formats that are read as a whole."""
    kind = _kind(path, inputs)
    if kind is None:
        return None
    with ExitStack() as stack, _translated(path):
        file = stack.enter_context(open_input(path))
        if kind == "parquet":
            metadata = pq.ParquetFile(file).metadata
            return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        reader = stack.enter_context(pa.ipc.open_file(file))
        return [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]


def _kind(path: str, inputs: InputOptions) -> str | None:
    """Return `parquet`, `arrow` for an IPC file, or None for formats that are read as a whole."""
    suffix = Path(path).suffix.lower()
    given = inputs.text_format
    if given == "parquet" or (given is None and suffix == PARQUET):
        return "parquet"
    if given == "arrow" or (given is None and suffix in ARROW):
        with open_input(path) as file:
            return "arrow" if file.read(6) == b"ARROW1" else None
    return None


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Translate pyarrow's errors about the content of a file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        yield
    except pa.ArrowException as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_part(part: Part, inputs: InputOptions) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part, with all columns of the file.

    Args:
        part: the part.
        inputs: format of the file, its column, and the rows of a batch.

    Raises:
        InputError: the file is damaged, or has no column of texts.
    """
    with ExitStack() as stack, _translated(part.path):
        if part.groups is None:
            yield from _read_whole(part, inputs, stack)
            return
        first, end = part.groups
        file = stack.enter_context(open_input(part.path))
        if _kind(part.path, inputs) == "parquet":
            parquet = pq.ParquetFile(file)
            require_column(part.path, parquet.schema_arrow.names, inputs.column)
            if first < end:
                yield from parquet.iter_batches(batch_size=inputs.chunk_size, row_groups=range(first, end))
            return
        reader = stack.enter_context(pa.ipc.open_file(file))
        require_column(part.path, reader.schema.names, inputs.column)
        for index in range(first, end):
            batch = reader.get_batch(index)
            for start in range(0, batch.num_rows, inputs.chunk_size):
                yield batch.slice(start, inputs.chunk_size)


def _read_whole(part: Part, inputs: InputOptions, stack: ExitStack) -> Iterator[pa.RecordBatch]:
    source = stack.enter_context(
        open_texts(part.path, text_format=inputs.text_format, column=inputs.column, chunk_texts=inputs.chunk_size)
    )
    for chunk in source.chunks:
        carried: Any = chunk.carried
        texts = pa.array(chunk.texts, pa.string())
        fields = [pa.field(inputs.column, pa.string()), *carried.schema]
        yield pa.RecordBatch.from_arrays([texts, *carried.columns], schema=pa.schema(fields))


def require_column(path: str, names: Sequence[str], column: str) -> None:
    """Check that a file has one column of texts.

    Raises:
        InputError: it has none, or several.
    """
    if list(names).count(column) != 1:
        raise InputError(
            f"{path} does not have one column {column!r}; it has {', '.join(map(repr, names))}. See --column"
        )
