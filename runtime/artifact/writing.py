"""Writing of artifacts, atomically and by one process at a time, and recording of verifications."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from ..errors import ArtifactError
from .calibration import Calibration
from .durable import install, sync
from .folder import MANIFEST, Artifact, checksum, hash_file
from .manifest import LEFT_OUT, FileInfo, Manifest, Verification

__all__ = ["calibrate", "describe_files", "new_artifact", "stamp", "write_manifest"]


@contextlib.contextmanager
def new_artifact(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to write an artifact into. It is renamed to `path` when the block ends without an error.

    The temporary folder is beside `path`. An error removes it. A killed process leaves it behind, and the next successful
    write removes it. If `path` exists, it must be an artifact or an empty folder; it is replaced, and restored if the new
    folder cannot be renamed. If `path` is a link, the folder that it leads to is replaced.
    Call `write_manifest` at the end of the block.

    Raises:
        ArtifactError: `path` exists and is not an artifact, or another process is writing it.
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
            # The error of a failed write has no file name: the artifact's path shows at least what was being written.
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
            # Another writer may have removed the file between our open and our lock; then the new file must be locked.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                    break
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _replace(path: Path, new: Path) -> None:
    """Rename `new` to `path`, so that a crash at any moment leaves the old artifact or the new one."""
    _check_replaceable(path)  # again, because `path` may have changed during the conversion
    install(new, path)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders that killed writers of `path` left. The caller holds the lock, so no writer is active."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(new|old)\.\w{{8}}")
    for folder in path.parent.iterdir():
        if pattern.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `fletcher.json`, so that a crash at any moment leaves the old one or the new one."""
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    try:
        fields = _written(manifest)
        fields["checksum"] = checksum(fields)
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n")
        sync(temporary)
        temporary.replace(folder / MANIFEST)
        sync(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _written(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest's fields as they are written: without those of `LEFT_OUT` that have their default."""
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    for field in msgspec.structs.fields(manifest):
        if field.name in LEFT_OUT and getattr(manifest, field.name) == field.default:
            del fields[field.name]
    return fields


def describe_files(folder: Path, known: Mapping[str, FileInfo] = MappingProxyType({})) -> dict[str, FileInfo]:
    """Return size and digest of every file in the folder except the manifest, by file name, for a new manifest.

    Args:
        folder: the artifact's folder.
        known: size and digest of files that were hashed when they were written; these files are not read.
    """
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    return {file.name: known.get(file.name) or FileInfo(file.stat().st_size, hash_file(file)) for file in files}


def stamp(path: str | Path, verification: Verification, *, digest: str | None = None) -> Artifact:
    """Record a successful verification in the manifest. No other file changes, so the digest does not change.

    Args:
        path: the artifact's folder.
        verification: the verification to record.
        digest: digest of the verified artifact; an error is raised if `path` has another digest. None does not check it.

    Raises:
        ArtifactError: the artifact cannot be read or was replaced, or another process is writing it.
    """

    def record(manifest: Manifest) -> Manifest:
        variants = tuple(
            msgspec.structs.replace(variant, measured=verification.figures.get(variant.name, variant.measured))
            for variant in manifest.variants
        )
        return msgspec.structs.replace(manifest, verified=verification, variants=variants)

    return _change(path, record, digest, "verified")


def calibrate(path: str | Path, calibration: Calibration | None, *, digest: str) -> Artifact:
    """Write a calibration into the manifest, or remove it. The digest changes, and no other file does.

    Args:
        path: the artifact's folder.
        calibration: the calibration; None removes the present one.
        digest: digest of the calibrated artifact; an error is raised if `path` has another digest.

    Raises:
        ArtifactError: the artifact cannot be read or was replaced, or another process is writing it.
    """
    return _change(
        path, lambda manifest: msgspec.structs.replace(manifest, calibration=calibration), digest, "calibrated"
    )


def _change(path: str | Path, change: Callable[[Manifest], Manifest], digest: str | None, verb: str) -> Artifact:
    """Write a changed manifest under the lock of writers.

    Args:
        path: the artifact's folder.
        change: returns the new manifest.
        digest: digest that the artifact must have; None does not check it.
        verb: name of the work in the message.

    Raises:
        ArtifactError: the artifact cannot be read or was replaced, or another process is writing it.
    """
    path = Path(path).resolve()
    Artifact.open(path)  # raises an error before a lock file is made beside a folder that is not an artifact
    with _only_writer(path):
        artifact = Artifact.open(path)
        if digest not in (None, artifact.digest):
            raise ArtifactError(f"{path} was replaced while it was {verb}, so nothing is recorded: try again")
        write_manifest(path, change(artifact.manifest))
        return Artifact.open(path)
