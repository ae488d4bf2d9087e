"""What an ingest job reads: files of texts with their ids, and folders of documents; and where it puts what it cannot use."""

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

#: Files of a folder that are documents.
FOLDER_SUFFIXES: Final = (".txt", ".md", ".rst", ".text")

#: The column that names a folder's document.
PATH_COLUMN: Final = "path"


@contextmanager
def open_documents(
    path: str, *, text_format: str | None, column: str, chunk_texts: int, bad: Bad
) -> Iterator[tuple[TextSource, str | None]]:
    """Opens a file, a URL, standard input, or a folder of documents.

    Args:
        path: what to read.
        text_format: as in `open_texts`.
        column: as in `open_texts`.
        chunk_texts: most texts in a chunk.
        bad: told of what cannot be read.

    Yields:
        The texts, and the column that names them if there is one by nature: of a folder, the file's path in it.

    Raises:
        InputError: a folder without documents, or as in `open_texts`.
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
    """The file system and the path on it, where a path is a folder."""
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
        error: why the row was not sent.
        text: its text, or None where there is none.
        row: the row's other columns, or where it could not be read the row as it stands in the file.
    """

    error: str
    text: str | None
    row: Any


@dataclass(slots=True)
class DeadLetters:
    """Counts what cannot be used, and writes it down as JSON lines; `stop` instead ends the job at the first.

    Attributes:
        path: of the file, which appears with the first such row; None writes nothing.
        stop: whether the first one ends the job.
        count: so far.
    """

    path: Path | None
    stop: bool
    count: int = 0
    first: str = ""
    _file: IO[bytes] | None = None

    def bad(self, error: InputError, row: bytes) -> None:
        """A row that could not be read."""
        self.add(error, None, row.decode(errors="replace"))

    def add(self, error: InputError, text: str | None, row: object) -> None:
        """A row that cannot be sent.

        Raises:
            InputError: the job stops at the first.
        """
        if self.stop:
            raise InputError(f"{error}. Nothing of what was sent is lost; go on past such rows with --on-error skip")
        self.count += 1
        self.first = self.first or str(error)
        if self.path is None:
            return
        if self._file is None:
            self._file = self.path.open("wb")
        self._file.write(msgspec.json.encode(Failed(str(error), text, row), enc_hook=str) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
