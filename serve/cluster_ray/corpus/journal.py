"""`PartJournal`: the finished parts of a job, as files in a folder on any file system. Only the driver of the job writes it.

A part is finished when its file is there. A part whose output was written and whose file is missing is done again: output
files have fixed names and replace each other, and rows of Longbow are looked for first.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.fs as pafs

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError

from ...files.inputs import filesystem, is_url

__all__ = ["Done", "PartJournal", "open_folder"]

#: Form of the files; a job of another form is refused.
FORMAT: Final = "1"

JOB: Final = "job.json"
PARTS: Final = "parts"


class Done(msgspec.Struct, frozen=True):
    """A finished part.

    Attributes:
        number: number of the part.
        rows: rows that were read, all of which are in the output.
        written: rows that this run wrote; fewer if Longbow had some from an attempt that died.
        tokens: tokens that the model processed.
        truncated: texts that were cut.
        dropped: tokens that were cut.
        node: name of the node.
        space: identifier of the space of the vectors.
        provider: execution provider.
        seconds: seconds of the part.
        cpu_seconds: seconds of CPU of the engine's process for the part.
        memory: largest resident memory of the engine's process so far, in bytes.
        error: message if the part failed; empty if it is finished.
        by_input: True if the input or the options are the reason of the error.
    """

    number: int
    rows: int = 0
    written: int = 0
    tokens: int = 0
    truncated: int = 0
    dropped: int = 0
    node: str = ""
    space: str = ""
    provider: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    error: str = ""
    by_input: bool = False


class PartJournal:
    """Finished parts of a job.

    Attributes:
        folder: name of the folder, for messages.
        identity: unique name of the job, which rows in Longbow have as their mark.
        done: finished parts by number.
        resumed: True if an earlier run has begun the job.
        baseline: rows of the dataset before the job, or None for files.
    """

    def __init__(self, folder: str, facts: Mapping[str, str], baseline: int | None = None) -> None:
        """Open a journal, or begin one.

        Args:
            folder: folder or URL.
            facts: values that must not change between the runs of a job: model, options, input, output.
            baseline: rows of the dataset now.

        Raises:
            InputError: the folder has the journal of another job, or cannot be written.
        """
        self.folder = folder
        self._store, self._root = open_folder(folder)
        facts = {"format": FORMAT, **facts}
        with _translated(folder):
            self._store.create_dir(f"{self._root}/{PARTS}", recursive=True)
            known = self._read(f"{self._root}/{JOB}")
            self.resumed = known is not None
            if known is None:
                stored: dict[str, str] = {**facts, "identity": secrets.token_hex(6), "baseline": str(baseline)}
                self._write(f"{self._root}/{JOB}", msgspec.json.format(msgspec.json.encode(stored)))
            else:
                stored = decode_json(known, dict[str, str])
                self._check(stored, facts)
            self.identity = stored["identity"]
            self.baseline = None if stored["baseline"] == "None" else int(stored["baseline"])
            self.done = {part.number: part for part in self._finished()}

    def _check(self, stored: Mapping[str, str], facts: Mapping[str, str]) -> None:
        for name, value in facts.items():
            if stored.get(name) != value:
                raise InputError(
                    f"{self.folder} is the journal of another job: its {name} is {stored.get(name)!r}, and this job's is "
                    f"{value!r}. Name another output or another --journal, or run the job that it belongs to"
                )

    def _finished(self) -> Iterator[Done]:
        for entry in self._store.get_file_info(pafs.FileSelector(f"{self._root}/{PARTS}")):
            if entry.path.endswith(".json"):
                content = self._read(entry.path)
                if content is not None:
                    yield decode_json(content, Done)

    def finish(self, done: Done) -> None:
        """Store that a part is finished.

        Raises:
            InputError: the folder cannot be written.
        """
        with _translated(self.folder):
            self._write(f"{self._root}/{PARTS}/{done.number:06d}.json", msgspec.json.encode(done))
        self.done[done.number] = done

    def _read(self, path: str) -> bytes | None:
        if self._store.get_file_info(path).type != pafs.FileType.File:
            return None
        with self._store.open_input_stream(path) as stream:
            content: bytes = stream.read()
        return content

    def _write(self, path: str, content: bytes) -> None:
        """Write a file as a whole. An object store shows an object when it is complete; elsewhere the file is renamed."""
        temporary = f"{path}.{secrets.token_hex(4)}.partial"
        with self._store.open_output_stream(temporary) as stream:
            stream.write(content)
        self._store.move(temporary, path)


def open_folder(folder: str) -> tuple[Any, str]:
    """Return the file system of a folder or URL, and the folder's path on it without a slash at its end.

    Raises:
        InputError: the URL is not valid.
    """
    if not is_url(folder):
        return pafs.LocalFileSystem(), str(Path(folder).absolute())
    store, root = filesystem(folder)
    return store, root.rstrip("/")


@contextmanager
def _translated(folder: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, msgspec.MsgspecError) as error:
        raise InputError(f"the journal {folder} cannot be used: {error}") from error
