"""`PinnedFiles`: an artifact's files, open from the check of their sha256 until the model is closed.

ONNX Runtime and OpenVINO open the files of a graph by their paths, and map the weights into memory. So the files are checked
twice: their bytes before the libraries open them, and afterwards that the paths lead to the same files, which did not
change. Later a change in place, such as `cp` or `rsync --inplace`, would change vectors without notice; `changed` finds it.
A file that is replaced or removed leaves the open one as it is. Each file is held (`holding.py`), so that
`fletcher-serve retention` does not remove it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..closing import Closing
from ..errors import ArtifactError, ChecksumError
from .holding import share
from .manifest import FileInfo
from .regular_file import open_regular

__all__ = ["PinnedFiles"]

#: Device, number, size, and nanoseconds of the last changes of content and of status.
Identity = tuple[int, int, int, int, int]

#: Bytes that are read at once.
BLOCK = 1 << 20


@dataclass(slots=True)
class _Pinned:
    """One open file.

    Attributes:
        stream: the open file.
        sha256: its sha256 in the manifest.
        identity: its identity when it last had that sha256.
        changed: whether it had another sha256 at the last check.
    """

    stream: BinaryIO
    sha256: str
    identity: Identity
    changed: bool = False


class PinnedFiles(Closing):
    """Open files of an artifact. Safe to use from several threads."""

    def __init__(self, folder: Path, files: dict[str, _Pinned]) -> None:
        """Take files that were checked; most callers use `open`."""
        self._folder = folder
        self._files = files
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path, files: Mapping[str, FileInfo]) -> PinnedFiles:
        """Open files, and compare their sizes and sha256 with the manifest's.

        Raises:
            ArtifactError: a file is missing, is not a regular file, or cannot be read.
            ChecksumError: a file has another size or sha256.
        """
        pinned: dict[str, _Pinned] = {}
        try:
            for name, info in files.items():
                stream = open_regular(folder / name)
                share(stream.fileno())
                pinned[name] = _Pinned(stream, info.sha256, _identity(os.fstat(stream.fileno())))
                size = pinned[name].identity[2]
                if size != info.size:
                    raise ChecksumError(
                        f"{folder / name} has {size} bytes, the manifest says {info.size}: convert the checkpoint again"
                    )
            with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
                digests = list(pool.map(_hash, pinned.values()))
        except OSError as error:
            _close(pinned.values())
            raise ArtifactError(f"{folder} cannot be read: {error.strerror}. Convert the checkpoint again") from error
        except BaseException:
            _close(pinned.values())
            raise
        for (name, info), digest in zip(files.items(), digests, strict=True):
            if digest != info.sha256:
                _close(pinned.values())
                raise ChecksumError(
                    f"{folder / name} has sha256 {digest}, the manifest says {info.sha256}: convert the checkpoint again"
                )
        return cls(folder, pinned)

    def require_unchanged(self) -> None:
        """Check that each path still leads to the file that was checked, and that nothing changed it since then.

        A file that was exchanged and put back has another time of its last change of status.

        Raises:
            ArtifactError: a file was changed or exchanged.
        """
        for name, pinned in self._files.items():
            file = self._folder / name
            try:
                same = _identity(file.stat()) == pinned.identity == _identity(os.fstat(pinned.stream.fileno()))
            except OSError:
                same = False
            if not same:
                raise ArtifactError(f"{file} was changed or exchanged while it was loaded: load the artifact again")

    def keep(self, names: Iterable[str]) -> None:
        """Close all files but these."""
        kept = set(names)
        _close([pinned for name, pinned in self._files.items() if name not in kept])
        self._files = {name: pinned for name, pinned in self._files.items() if name in kept}

    def changed(self) -> str:
        """Return the reason why the files are not those that were checked; empty if they are.

        A file is hashed again only if its size or one of its times differs, so the usual call takes microseconds.
        """
        with self._lock:
            for name, pinned in self._files.items():
                try:
                    identity = _identity(os.fstat(pinned.stream.fileno()))
                    if identity != pinned.identity:
                        pinned.changed = _hash(pinned) != pinned.sha256
                        pinned.identity = identity
                except (OSError, ValueError) as error:
                    return f"the file {name} of the artifact cannot be read ({type(error).__name__})"
                if pinned.changed:
                    return f"the file {name} of the artifact was changed in place: restore it, and load the model again"
            return ""

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            _close(self._files.values())
            self._files = {}


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash(pinned: _Pinned) -> str:
    """Return the sha256 of an open file. Its position is not used, so other threads may read it too."""
    digest = hashlib.sha256()
    descriptor, position = pinned.stream.fileno(), 0
    while block := os.pread(descriptor, BLOCK, position):
        digest.update(block)
        position += len(block)
    return digest.hexdigest()


def _close(files: Iterable[_Pinned]) -> None:
    for pinned in files:
        with suppress(OSError):
            pinned.stream.close()
