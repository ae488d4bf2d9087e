"""Download of an artifact's files into a folder: hashed while they arrive, and continued where a download was cut."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from fletcher.model_zoo.progress import Progress
from fletcher.model_zoo.sources.cache import disk_error

from ..artifact.durable import sync
from ..artifact.folder import MANIFEST
from ..artifact.manifest import FileInfo
from ..errors import ChecksumError
from ..origin.signature import SIGNATURE
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
        with progress.count("Downloading", total=index.size, units=("bytes",)) as counter:
            for name, info in sorted(index.files.items(), key=lambda item: item[1].size):
                _fetch(source, name, info, folder / name, counter.advance, known(info))
            if index.signature is not None:
                _write(folder / SIGNATURE, index.signature)
            _write(folder / MANIFEST, index.manifest)
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
            counter.advance(len(index.manifest) + len(index.signature or b""))
        sync(folder)  # so that a folder that is renamed later is whole after a power cut
    except OSError as error:
        raise disk_error(error, folder) from error


def _fetch(
    source: Source, name: str, info: FileInfo, target: Path, advance: Callable[[int], None], copy: Path | None
) -> None:
    """Complete a file. If the bytes of an earlier download were wrong, download all of it once more."""
    resumed = target.exists() and target.stat().st_size > 0
    try:
        _complete(source, name, info, target, advance, copy)
    except ChecksumError:
        target.unlink(missing_ok=True)
        if not resumed and copy is None:
            raise
        try:
            _complete(source, name, info, target, advance, None)
        except ChecksumError:
            target.unlink(missing_ok=True)
            raise


def _complete(
    source: Source, name: str, info: FileInfo, target: Path, advance: Callable[[int], None], copy: Path | None
) -> None:
    digest = hashlib.sha256()
    with target.open("a+b") as file:
        if os.fstat(file.fileno()).st_size > info.size:
            file.truncate(0)
        file.seek(0)
        size = 0
        for old in _read(file):
            digest.update(old)
            size += len(old)
        advance(size)
        for block in _rest(source, name, info, size, target.parent / SCRATCH, copy):
            digest.update(block)
            size += len(block)
            if size > info.size:
                break
            file.write(block)
            advance(len(block))
        if size != info.size or digest.hexdigest() != info.sha256:
            raise ChecksumError(
                f"{name} has sha256 {digest.hexdigest()} and {size} bytes, and the manifest says {info.sha256} and "
                f"{info.size}: the copy at the URL is damaged or was exchanged. Push the artifact again, to a new URL"
            )
        file.flush()
        os.fsync(file.fileno())


def _rest(
    source: Source, name: str, info: FileInfo, start: int, scratch: Path, copy: Path | None
) -> Iterator[memoryview | bytes]:
    if start == info.size:
        return
    if copy is None:
        yield from source.blocks(name, start, info.size, scratch)
        return
    with copy.open("rb") as file:
        file.seek(start)
        yield from _read(file)


def _read(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
