"""Cache folder, and records of each source's first use; without knowledge of sources and of the network."""

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

from ..decode import decode_json
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
    """Record of a source's first use.

    Attributes:
        source: the canonical SOURCE string.
        revision: the hub commit, or None for packages.
        sha256: hex digest by file name, for every file used.
    """

    source: str
    revision: str | None
    sha256: Mapping[str, str]


def cache_folder(cache_dir: Path | None) -> Path:
    """Return the folder of downloads: `cache_dir`, FLETCHER_CACHE, XDG_CACHE_HOME/fletcher or ~/.cache/fletcher."""
    if cache_dir is not None:
        return cache_dir.expanduser().absolute()
    if own := os.environ.get("FLETCHER_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "fletcher"
    return Path.home() / ".cache" / "fletcher"


def slug(source: str) -> str:
    """Return a file name for a canonical source: readable, and unique through eight hex digits of its sha256."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", source).strip("-.")[:80]
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def hash_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 (hex) of files of a folder, by name.

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
    """Result of `hash_files` on a thread of its own; access waits for it.

    Reading a checkpoint once more takes half the time of its conversion, and hashing releases the GIL.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="fletcher-hash")
        self._digests = pool.submit(hash_files, folder, names)
        pool.shutdown(wait=False)

    def __getitem__(self, name: str) -> str:
        return self._digests.result()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests.result())

    def __len__(self) -> int:
        return len(self._digests.result())


def check_digests(digests: Mapping[str, str], expected: Mapping[str, str], *, origin: str, remedy: str) -> None:
    """Compare the digests of files with pinned or recorded ones.

    Args:
        digests: current sha256 by file name.
        expected: expected sha256 by file name; other files are not compared.
        origin: origin of the expected digests, for the message.
        remedy: next step of the user, for the message.

    Raises:
        ChecksumError: a file differs; the message names it, both digests and the remedy.
        SourceError: a file that is expected is missing.
    """
    for name, digest in sorted(expected.items()):
        if name not in digests:
            raise SourceError(f"{name} is missing: {origin} has it (sha256 {digest}). {remedy}")
        if digests[name] != digest:
            raise ChecksumError(
                f"{name} is not the file that was published: {origin} has sha256 {digest}, the file has "
                f"{digests[name]}. {remedy}"
            )


def read_record(file: Path) -> Record | None:
    """Return the record in a file, or None if there is no file.

    Raises:
        SourceError: the file is damaged.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return decode_json(data, Record)
    except msgspec.DecodeError as error:
        raise SourceError(f"{file} is damaged ({error}); delete it and try again") from error


def write_record(file: Path, record: Record) -> None:
    """Write a record under a temporary name, then rename it, so that the file is whole or absent.

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
    """Return the error to raise for an OSError of a write below `folder`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SourceError(
            f"The disk of {folder} is full: free some space, or set FLETCHER_CACHE to a folder on another disk"
        )
    return SourceError(f"{folder} cannot be written: {error.strerror or error}")
