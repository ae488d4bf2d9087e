"""Sources of an ingest job, which are files of texts and folders of documents, and the file of rows that it cannot use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.fs as pafs

from fletcher.runtime.errors import InputError

from ...files.chunks import TextSource
from ...files.inputs import filesystem, is_url
from ...files.json_types import JsonKinds
from ...files.lines import Bad, Row, chunk_rows
from ...files.texts import STDIN, open_texts

__all__ = ["FOLDER_SUFFIXES", "PATH_COLUMN", "DeadLetters", "Failed", "open_documents"]

#: Suffixes of the documents of a folder.
FOLDER_SUFFIXES: Final = (".txt", ".md", ".rst", ".text")

#: The column with the path of a folder's document.
PATH_COLUMN: Final = "path"


@contextmanager
def open_documents(
    path: str, *, text_format: str | None, column: str, chunk_texts: int, bad: Bad
) -> Iterator[tuple[TextSource, str | None]]:
    """Open a file, a URL, standard input, or a folder of documents.

    Args:
        path: file, URL, folder, or "-" for standard input.
        text_format: as in `open_texts`.
        column: as in `open_texts`.
        chunk_texts: largest number of texts in a chunk.
        bad: called for each row or file that cannot be read.

    Yields:
        The texts, and the name of the column with their ids: for a folder, the column of paths; otherwise None.

    Raises:
        InputError: the folder has no documents, or as in `open_texts`.
    """
    folder = _folder(path)
    if folder is None:
        with open_texts(path, text_format=text_format, column=column, chunk_texts=chunk_texts, bad=bad) as source:
            yield source, None
        return
    store, root = folder
    files = sorted(
        entry.path
        for entry in store.get_file_info(pafs.FileSelector(root, recursive=True))
        if entry.type == pafs.FileType.File and Path(entry.path).suffix.lower() in FOLDER_SUFFIXES
    )
    if not files:
        raise InputError(f"{path} is a folder without documents: it has no file ending in {', '.join(FOLDER_SUFFIXES)}")
    kinds = JsonKinds()
    kinds.see({PATH_COLUMN: "a"})
    rows = _read_files(store, root, files, bad)
    yield TextSource(path, len(files), kinds.schema(), chunk_rows(rows, kinds, chunk_texts)), PATH_COLUMN


def _folder(path: str) -> tuple[Any, str] | None:
    """Return the file system of a folder and its path there, or None if the path is not a folder."""
    if path == STDIN:
        return None
    if not is_url(path):
        return (pafs.LocalFileSystem(), os.path.abspath(path)) if Path(path).is_dir() else None  # noqa: PTH100
    store, name = filesystem(path)
    try:
        info = store.get_file_info(name)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be reached: {error}") from error
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"{path}: no such file or folder")
    return (store, name) if info.type == pafs.FileType.Directory else None


def _read_files(store: Any, root: str, files: list[str], bad: Bad) -> Iterator[Row]:
    for file in files:
        name = os.path.relpath(file, root)
        try:
            with store.open_input_stream(file) as stream:
                content = stream.read()
            yield content.decode("utf-8-sig"), {PATH_COLUMN: name}
        except UnicodeDecodeError as error:
            bad(
                InputError(f"{name}: byte {error.start + 1} is not UTF-8; convert the file to UTF-8 first"),
                name.encode(),
            )
        except OSError as error:
            bad(InputError(f"{name} cannot be read: {error}"), name.encode())


class Failed(msgspec.Struct, frozen=True):
    """A line of the dead-letter file.

    Attributes:
        error: reason why the row was not sent.
        text: text of the row, or None if it has none.
        row: other columns of the row, or the row as in the file if it could not be read.
    """

    error: str
    text: str | None
    row: Any


@dataclass(slots=True)
class DeadLetters:
    """Rows that cannot be used: their number, and a file with them as JSON lines. With `stop`, the first one ends the job.

    Attributes:
        path: path of the file, which is created for the first such row; None writes no file.
        stop: whether the first such row ends the job.
        count: number of such rows so far.
        first: message of the first error.
    """

    path: Path | None
    stop: bool
    count: int = 0
    first: str = ""
    _file: IO[bytes] | None = None

    def bad(self, error: InputError, row: bytes) -> None:
        """Add a row that could not be read."""
        self.add(error, None, row.decode(errors="replace"))

    def add(self, error: InputError, text: str | None, row: object) -> None:
        """Add a row that cannot be sent.

        Raises:
            InputError: `stop` is set.
        """
        if self.stop:
            raise InputError(f"{error}. Rows that were sent are not lost; skip such rows with --on-error skip")
        self.count += 1
        self.first = self.first or str(error)
        if self.path is None:
            return
        if self._file is None:
            self._file = self.path.open("wb")
        self._file.write(msgspec.json.encode(Failed(str(error), text, row), enc_hook=str) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
