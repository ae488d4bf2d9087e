"""`NodeCache`: artifacts that were downloaded to this machine, in folders that all its processes share.

artifacts/KEY/             a whole artifact; KEY is the sha256 of its manifest and signature, and so of every byte
artifacts/.partial/KEY/    an artifact that is being downloaded, or whose download was cut
artifacts/.locks/KEY       locked by every process that uses KEY
artifacts/.locks/KEY.new   locked by the process that downloads KEY
artifacts/.locks/room      locked by the process that makes room
artifacts/.urls/           for each URL the KEY that it had last, for when its server does not answer
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.model_zoo.progress import Progress
from fletcher.model_zoo.sources.cache import cache_folder, disk_error, slug

from ..artifact.durable import new_file
from ..artifact.folder import MANIFEST, Artifact
from ..artifact.manifest import FileInfo
from ..errors import ArtifactError, ChecksumError, InputError, SourceError
from ..options.sizes import parse_size
from .download import download
from .locks import READ_ONLY, Hold, exclusive, shared
from .source import Index, Source
from .url import ArtifactUrl

__all__ = ["Cached", "NodeCache", "Remembered"]

#: Variable with the largest size of all artifacts, and its default.
SIZE_VARIABLE: Final = "FLETCHER_CACHE_SIZE"
DEFAULT_SIZE: Final = "64GiB"


@dataclass(frozen=True, slots=True)
class Cached:
    """An artifact of the cache.

    Attributes:
        folder: its folder, which must not be changed.
        hold: keeps it from being removed until it is closed.
    """

    folder: Path
    hold: Hold


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The artifact that a URL had when its server answered last.

    Attributes:
        url: the URL.
        key: key of the artifact.
        digest: its digest.
    """

    url: str
    key: str
    digest: str


class NodeCache:
    """The cache below a folder. Any number of processes use it at the same time."""

    def __init__(self, folder: Path | None = None) -> None:
        """Find the cache; nothing is written.

        Args:
            folder: folder of the cache. Default: `artifacts` in Fletcher's cache folder, which FLETCHER_CACHE sets.

        Raises:
            InputError: FLETCHER_CACHE_SIZE is not a size.
        """
        self._folder = cache_folder(None) / "artifacts" if folder is None else folder
        try:
            self._limit = parse_size(os.environ.get(SIZE_VARIABLE) or DEFAULT_SIZE)
        except InputError as error:
            raise InputError(f"{SIZE_VARIABLE}: {error}") from None

    def find(self, key: str) -> Cached | None:
        """Return an artifact that the cache has; None if it does not have all of it."""
        hold = self._hold(key)
        folder = self._folder / key
        if _is_whole(folder):
            return Cached(folder, hold)
        hold.close()
        return None

    def hold_folder(self, folder: Path) -> Cached | None:
        """Return the artifact of a folder that `find` or `fetch` returned earlier; None if the cache does not have it now."""
        return self.find(folder.name) if folder.parent == self._folder else None

    def fetch(self, source: Source, index: Index, progress: Progress) -> Cached:
        """Return an artifact; download it if the cache does not have it. Of several callers one downloads, and all wait.

        Args:
            source: the artifact's files.
            index: its manifest and signature.
            progress: receives a line for each step, and the bytes.

        Raises:
            ChecksumError: a file has other bytes than the manifest says.
            SourceError: the download failed, the disk is full, or the artifacts in use leave no room below the limit.
        """
        key = index.key
        if (found := self.find(key)) is not None:
            return found
        try:
            with self._writer(key, progress), self._hold(key):
                if (found := self.find(key)) is not None:  # another process has downloaded it meanwhile
                    return found
                partial = self._folder / ".partial" / key
                self._make_room(index, partial)
                contents = self._contents()

                def known(info: FileInfo) -> Path | None:
                    file = contents.get(info)
                    return file if file is not None and file.is_file() else None  # it may have been removed since

                download(source, index, partial, progress, known=known)
                self._install(partial, self._folder / key)
                found = self.find(key)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        if found is None:
            raise SourceError(
                f"{self._folder / key} was removed while it was written: do not clear the cache of a running server"
            )
        return found

    def remember(self, url: ArtifactUrl, index: Index) -> None:
        """Note the artifact of a URL. A cache that cannot be written notes nothing."""
        file = self._folder / ".urls" / f"{slug(str(url))}.json"
        fields = Remembered(url=str(url), key=index.key, digest=index.digest)
        if self.recall(url) == fields:
            return
        try:
            with new_file(file) as stream:
                stream.write(msgspec.json.encode(fields))
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise disk_error(error, self._folder) from error

    def recall(self, url: ArtifactUrl) -> Remembered | None:
        """Return what `remember` noted of a URL; None if it is not there."""
        try:
            return decode_json((self._folder / ".urls" / f"{slug(str(url))}.json").read_bytes(), Remembered)
        except (OSError, msgspec.DecodeError):
            return None

    # Locks ---------------------------------------------------------------------------------------------------------------

    def _lock_file(self, key: str) -> Path:
        return self._folder / ".locks" / key

    def _hold(self, key: str) -> Hold:
        try:
            return shared(self._lock_file(key))
        except OSError as error:
            raise disk_error(error, self._folder) from error

    def _writer(self, key: str, progress: Progress) -> Hold:
        """Wait until no other process downloads an artifact, and lock it for writing."""
        said = False

        def wait() -> None:
            nonlocal said
            if not said:
                progress.line("Waiting for another process that downloads the same artifact")
            said = True

        hold = exclusive(self._lock_file(f"{key}.new"), wait=wait)
        assert hold is not None  # it waits
        return hold

    # Files ---------------------------------------------------------------------------------------------------------------

    def _install(self, partial: Path, folder: Path) -> None:
        """Give a complete download its final name. What is there under that name lacks files, so it is removed."""
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)

    def _entries(self) -> Iterator[Path]:
        """Yield the folders of artifacts, whole and partial."""
        for parent in (self._folder, self._folder / ".partial"):
            if parent.is_dir():
                yield from (each for each in parent.iterdir() if each.is_dir() and not each.name.startswith("."))

    def _contents(self) -> dict[FileInfo, Path]:
        """Return a file of the whole artifacts for each size and sha256."""
        found: dict[FileInfo, Path] = {}
        for folder in self._entries():
            if folder.parent != self._folder:
                continue
            try:
                files = Artifact.open(folder).manifest.files
            except (ArtifactError, ChecksumError):
                continue
            for name, info in files.items():
                if (folder / name).is_file():  # another artifact may have it whole
                    found.setdefault(info, folder / name)
        return found

    def _make_room(self, index: Index, partial: Path) -> None:
        """Remove unused artifacts, the longest unused first, until another one fits; make its folder.

        Raises:
            SourceError: those in use leave no room.
        """
        with exclusive(self._lock_file("room"), wait=lambda: None) or Hold(None):
            partial.mkdir(parents=True, exist_ok=True)
            # Others who make room count an unfinished download by the size of its manifest.
            (partial / MANIFEST).write_bytes(index.manifest)
            sizes = {folder: _size(folder) for folder in self._entries() if folder.name != partial.name}
            total = sum(sizes.values())
            for folder in sorted(sizes, key=self._last_used):
                if total + index.size <= self._limit:
                    break
                if self._remove(folder):
                    total -= sizes[folder]
            if total + index.size > self._limit:
                shutil.rmtree(partial, ignore_errors=True)
                raise SourceError(
                    f"the cache {self._folder} has no room: the artifact has {index.size:,} bytes, artifacts in use have "
                    f"{total:,}, and the limit is {self._limit:,}. Set {SIZE_VARIABLE} to a larger size, such as 200GiB"
                )

    def _last_used(self, folder: Path) -> float:
        try:
            return self._lock_file(folder.name).stat().st_mtime
        except OSError:
            return 0.0

    def _remove(self, folder: Path) -> bool:
        """Remove an artifact unless a process uses it; return whether it was removed."""
        hold = exclusive(self._lock_file(folder.name), wait=None)
        if hold is None:
            return False
        with hold:
            shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()


def _is_whole(folder: Path) -> bool:
    """Return whether a folder has all files of its manifest, of the right sizes. Their bytes are compared at each load."""
    try:
        files = Artifact.open(folder).manifest.files
        return all((folder / name).stat().st_size == info.size for name, info in files.items())
    except (ArtifactError, ChecksumError, OSError):
        return False


def _size(folder: Path) -> int:
    """Return the bytes of an artifact, or those that an unfinished one will have."""
    try:
        return sum(info.size for info in Artifact.open(folder).manifest.files.values())
    except (ArtifactError, ChecksumError):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
