"""The cache folder, and what was recorded of each source on its first use. It knows no source and no network."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from ..errors import ChecksumError, SourceError

__all__ = [
    "PendingDigests",
    "Record",
    "cache_folder",
    "check_digests",
    "disk_error",
    "hash_files",
    "read_record",
    "slug",
    "write_record",
]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the first use of a source found.

    Attributes:
        source: the canonical SOURCE string.
        revision: the hub commit, or None for packages.
        sha256: hex digest by file name, for every file used.
    """

    source: str
    revision: str | None
    sha256: Mapping[str, str]


def cache_folder(cache_dir: Path | None) -> Path:
    """Where downloads are kept: `cache_dir`, FLETCHER_CACHE, XDG_CACHE_HOME/fletcher or ~/.cache/fletcher."""
    if cache_dir is not None:
        return cache_dir.expanduser().absolute()
    if own := os.environ.get("FLETCHER_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "fletcher"
    return Path.home() / ".cache" / "fletcher"


def slug(source: str) -> str:
    """A file name for a canonical source: readable, and unique through eight hex digits of its sha256."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", source).strip("-.")[:80]
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 (hex) of files of a folder, by name.

    Raises:
        SourceError: a file is missing or cannot be read.
    """
    digests = {}
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SourceError(f"{folder / name} cannot be read: {error.strerror}") from error
    return digests


class PendingDigests(Mapping[str, str]):
    """`hash_files` on a thread of its own: whoever looks into it waits. Reading a checkpoint once more takes as long as
    converting half of it, and hashing leaves the GIL alone.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="fletcher-hash")
        self._found = pool.submit(hash_files, folder, names)
        pool.shutdown(wait=False)

    def __getitem__(self, name: str) -> str:
        return self._found.result()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found.result())

    def __len__(self) -> int:
        return len(self._found.result())


def check_digests(found: Mapping[str, str], expected: Mapping[str, str], *, origin: str, remedy: str) -> None:
    """Compares files with what was pinned or recorded.

    Args:
        found: sha256 by file name, as the files are now.
        expected: sha256 by file name; files that are not named here are not compared.
        origin: who expects it, for the message.
        remedy: what the user can do, for the message.

    Raises:
        ChecksumError: a file differs; the message names it, both digests and the remedy.
        SourceError: a file that is expected is missing.
    """
    for name, digest in sorted(expected.items()):
        if name not in found:
            raise SourceError(f"{name} is missing: {origin} has it (sha256 {digest}). {remedy}")
        if found[name] != digest:
            raise ChecksumError(
                f"{name} is not the file that was published: {origin} says sha256 {digest}, found {found[name]}. {remedy}"
            )


def read_record(file: Path) -> Record | None:
    """The record in a file, or None if there is no file.

    Raises:
        SourceError: the file is damaged.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:
        raise SourceError(f"{file} is damaged ({error}); delete it and try again") from error


def write_record(file: Path, record: Record) -> None:
    """Writes a record under a temporary name, then renames it: it is whole or absent.

    Raises:
        OSError: the folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(record), indent=2)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def disk_error(error: OSError, folder: Path) -> SourceError:
    """What to say of an OSError while writing below `folder`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SourceError(
            f"The disk of {folder} is full: free some space, or set FLETCHER_CACHE to a folder on another disk"
        )
    return SourceError(f"{folder} cannot be written: {error.strerror or error}")
