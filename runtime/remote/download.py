"""Download of an artifact's files into a folder: hashed while they arrive, and continued where a download was cut."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from fletcher.model_zoo.progress import Progress
from fletcher.model_zoo.sources.cache import disk_error

from ..artifact.durable import sync
from ..artifact.folder import MANIFEST
from ..artifact.manifest import FileInfo
from ..errors import ChecksumError
from ..origin.signature import SIGNATURE
from .receiving import Helpers, Receiver, helpers
from .source import Index, Source

__all__ = ["download"]

#: Bytes that are read at once of what an earlier download left.
BLOCK_BYTES: Final = 1 << 20

#: Folder for temporary files of the source, beside the files.
SCRATCH: Final = ".scratch"

#: Function that returns a local file with a size and sha256, or None.
Known = Callable[[FileInfo], Path | None]


def download(
    source: Source, index: Index, folder: Path, progress: Progress, *, known: Known = lambda info: None
) -> None:
    """Fill a folder with the files of an artifact, each of which then has the size and sha256 of the manifest.

    Args:
        source: the artifact's files.
        index: its manifest and signature.
        folder: an existing folder, perhaps with parts of the same files from an earlier download, and nothing else.
        progress: receives the bytes.
        known: finds a file of this machine that has the same content, to copy it.

    Raises:
        ChecksumError: a file has other bytes than the manifest says; it was removed.
        SourceError: a file cannot be downloaded, or the disk is full. What came stays in the folder.
    """
    try:
        with progress.count("Downloading", total=index.size, units=("bytes",)) as counter, helpers() as threads:
            for name, info in sorted(index.files.items(), key=lambda item: item[1].size):
                _fetch(_Wanted(source, name, info, folder / name, counter.advance, threads), known(info))
            threads.finish()
            if index.signature is not None:
                _write(folder / SIGNATURE, index.signature)
            _write(folder / MANIFEST, index.manifest)
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            counter.advance(len(index.manifest) + len(index.signature or b""))
        sync(folder)  # so that a folder that is renamed later is whole after a power cut
    except OSError as error:
        raise disk_error(error, folder) from error


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file to download: its source and name there, its size and sha256, its place, the progress, the download's threads."""

    source: Source
    name: str
    info: FileInfo
    target: Path
    advance: Callable[[int], None]
    threads: Helpers


def _fetch(file: _Wanted, copy: Path | None) -> None:
    """Complete a file. If the bytes of an earlier download were wrong, download all of it once more."""
    resumed = file.target.exists() and file.target.stat().st_size > 0
    try:
        _complete(file, copy)
    except ChecksumError:
        _remove(file)
        if not resumed and copy is None:
            raise
        try:
            _complete(file, None)
        except ChecksumError:
            _remove(file)
            raise


def _remove(file: _Wanted) -> None:
    file.threads.settle()
    file.target.unlink(missing_ok=True)


def _complete(file: _Wanted, copy: Path | None) -> None:
    name, info = file.name, file.info
    with file.target.open("a+b") as stream:
        if os.fstat(stream.fileno()).st_size > info.size:
            stream.truncate(0)
        stream.seek(0)
        receiver = Receiver(stream, file.target, file.threads)
        for old in _read(stream):
            receiver.hash(old)
        file.advance(receiver.size)
        for block in _rest(file, receiver.size, copy):
            if receiver.size + len(block) > info.size:
                receiver.hash(block)
                break
            receiver.append(block)
            file.advance(len(block))
        size, digest = receiver.size, receiver.hexdigest()
        if size != info.size or digest != info.sha256:
            raise ChecksumError(
                f"{name} has sha256 {digest} and {size} bytes, and the manifest says {info.sha256} and "
                f"{info.size}: the copy at the URL is damaged or was exchanged. Push the artifact again, to a new URL"
            )
    file.threads.sync_later(file.target)


def _rest(file: _Wanted, start: int, copy: Path | None) -> Iterator[memoryview | bytes]:
    if start == file.info.size:
        return
    if copy is None:
        yield from file.source.blocks(file.name, start, file.info.size, file.target.parent / SCRATCH)
        return
    with copy.open("rb") as stream:
        stream.seek(start)
        yield from _read(stream)


def _read(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
