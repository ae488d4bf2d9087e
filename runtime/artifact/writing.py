"""Writing an artifact: whole or not at all, one writer at a time; and stamping what was verified."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from ..errors import ArtifactError
from .folder import MANIFEST, Artifact, hash_file
from .manifest import FileInfo, Manifest, Verification

__all__ = ["describe_files", "new_artifact", "stamp", "write_manifest"]


@contextlib.contextmanager
def new_artifact(path: str | Path) -> Iterator[Path]:
    """Give a folder to write an artifact into, which takes its name only when the block ends well.

    Until then it lies beside `path` under a temporary name; an error removes it, and what a killed process left behind goes
    with the next success. Whatever stood at `path` before must be an artifact or empty; it steps aside, and comes back if
    the new one cannot take its place. Where `path` is a link, the folder that it leads to is meant.
    `write_manifest` belongs at the end of the block.

    Raises:
        ArtifactError: `path` is something else than an artifact, or another process is writing it.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(path):
        _check_replaceable(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.new.", dir=path.parent))
        try:
            temporary.chmod(0o755)
            yield temporary
            _replace(path, temporary)
            _remove_leftovers(path)
        except OSError as error:
            # A failed write names no file: say at least which artifact was being written.
            if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                error.filename = str(path)
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    if path.exists() and not ((path / MANIFEST).is_file() or (path.is_dir() and not any(path.iterdir()))):
        raise ArtifactError(
            f"{path} exists and is not an artifact: it is not replaced. Choose another folder, or remove it"
        )


@contextlib.contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Hold a lock file beside `path` and remove it at the end."""
    lock = path.parent / f".{path.name}.lock"
    with contextlib.ExitStack() as stack:
        while True:
            stream = stack.enter_context(lock.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(
                    f"another process is writing {path}: wait for it, or choose another folder"
                ) from None
            # The writer before may have removed the file between our open and our lock: then lock the new one.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                    break
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _replace(path: Path, new: Path) -> None:
    """Put `new` at `path`. A folder cannot be renamed over a full one, so the old one is moved aside first."""
    _check_replaceable(path)  # once more: conversion took a while
    if not path.exists():
        new.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        path.rename(aside / path.name)
        try:
            new.rename(path)
        except BaseException:
            (aside / path.name).rename(path)
            raise
    finally:
        # Only if something stands at `path` again: otherwise the old artifact is in here, and the only one.
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders of writers of `path` that were killed; the lock says that no writer is alive."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(new|old)\.\w{{8}}")
    for folder in path.parent.iterdir():
        if pattern.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `fletcher.json` atomically."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        temporary.replace(folder / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)


def describe_files(folder: Path, known: Mapping[str, FileInfo] = MappingProxyType({})) -> dict[str, FileInfo]:
    """Return size and digest of every file in the folder, the manifest left out, for a new manifest.

    Args:
        folder: the artifact's.
        known: of files whose writer hashed them on the way.
    """
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    return {file.name: known.get(file.name) or FileInfo(file.stat().st_size, hash_file(file)) for file in files}


def stamp(path: str | Path, verification: Verification, *, digest: str | None = None) -> Artifact:
    """Record a successful verification in the manifest; no other file changes, so the digest stays.

    Args:
        path: the artifact's folder.
        verification: what to record.
        digest: of the artifact that was verified; another one at `path` by now is refused.

    Raises:
        ArtifactError: the artifact cannot be read or was replaced, or another process is writing it.
    """
    path = Path(path).resolve()
    Artifact.open(path)  # before a lock file is left beside something that is none
    with _only_writer(path):
        artifact = Artifact.open(path)
        if digest not in (None, artifact.digest):
            raise ArtifactError(f"{path} was replaced while it was verified, so nothing is recorded: verify it again")
        variants = tuple(
            msgspec.structs.replace(variant, measured=verification.figures.get(variant.name, variant.measured))
            for variant in artifact.manifest.variants
        )
        write_manifest(path, msgspec.structs.replace(artifact.manifest, verified=verification, variants=variants))
        return Artifact.open(path)
