"""Fetch from the HuggingFace hub by huggingface_hub, whose own variables set token, mirror, proxy and offline mode.

An unpinned repository is pinned at its first fetch: the commit and every file's sha256 are recorded, and later fetches
use that commit without a request. A named branch or tag (`@main`) is looked up each time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

from ..errors import ChecksumError, SourceError, UnreachableError
from ..locator import HubSource
from ..progress import SILENT, Counter, Progress
from .cache import Record, cache_folder, check_digests, disk_error, hash_files, read_record, slug, write_record
from .folder import (
    CHECKPOINT_PATTERNS,
    IGNORED_PATTERNS,
    checkpoint_files,
    is_deep,
    needed_pickles,
    require_weights,
    token_heads,
)

__all__ = ["download_file", "fetch_hub", "find_commit", "is_recorded"]

_TIMEOUT = 10.0  # seconds for the first answer, huggingface_hub's own DEFAULT_REQUEST_TIMEOUT

# Statuses that concern the repository itself; after another status the cache is tried.
_FINAL = (400, 401, 403, 404, 410)


def fetch_hub(
    source: HubSource, cache_dir: Path | None, pinned: Mapping[str, str], progress: Progress
) -> tuple[Path, str, dict[str, str]]:
    """Download a repository's checkpoint, or take it from the cache.

    Args:
        source: the repository and, if known, the commit, branch or tag.
        cache_dir: cache folder; None is huggingface_hub's own cache, shared with other tools, unless FLETCHER_CACHE is set.
        pinned: sha256 by file name, as far as a card pins them.
        progress: receives a line per step and the bytes of a download.

    Returns:
        The snapshot's folder, its commit, and the sha256 of every file used.

    Raises:
        ChecksumError: a file is not the pinned one, or has changed since it was recorded.
        SourceError: the hub cannot be reached, has no such repository or revision or refuses access; the weights are
            missing or in another format; the disk is full.
    """
    records = cache_folder(cache_dir) / "records"
    snapshots = cache_folder(cache_dir) / "hub" if cache_dir is not None or os.environ.get("FLETCHER_CACHE") else None
    requested = source
    if source.revision is None and (first := read_record(_record_file(records, source))) is not None:
        requested = HubSource(source.repository, first.revision)
    folder = _snapshot(requested, snapshots, records, progress)
    commit = folder.name
    digests = _verify(folder, HubSource(source.repository, commit), records, pinned, progress)
    if requested.revision != commit:  # a branch, a tag, or no revision at the first fetch: record its commit
        _write(_record_file(records, requested), Record(source=str(requested), revision=commit, sha256=digests))
    return folder, commit, digests


def _record_file(records: Path, source: HubSource) -> Path:
    return records / f"{slug(str(source))}.json"


def _verify(
    folder: Path, source: HubSource, records: Path, pinned: Mapping[str, str], progress: Progress
) -> dict[str, str]:
    require_weights(folder, str(source))
    file = _record_file(records, source)
    record = read_record(file)
    progress.line(f"Checking {source.repository}")
    digests = hash_files(folder, checkpoint_files(folder))
    for expected, origin in ((pinned, "the model's card"), (record.sha256 if record else {}, "its first download")):
        try:
            check_digests(digests, expected, origin=origin, remedy=_remedy(folder, digests, expected))
        except ChecksumError:
            raise
        except SourceError as error:
            raise SourceError(f"{source}: {error}") from error
    if record is None:
        _write(file, Record(source=str(source), revision=source.revision, sha256=digests))
    return digests


def _remedy(folder: Path, digests: Mapping[str, str], expected: Mapping[str, str]) -> str:
    # A snapshot holds links into the hub cache's blobs: only deleting the blob makes huggingface_hub fetch it again.
    wrong = [name for name, digest in expected.items() if digests.get(name) not in (None, digest)]
    paths = " ".join(str((folder / name).resolve()) for name in wrong)
    return f"Delete {paths} and try again; if it happens again, the hub or mirror gives another file." if wrong else ""


def _write(file: Path, record: Record) -> None:
    try:
        write_record(file, record)
    except OSError as error:
        raise disk_error(error, file.parent) from error


def is_recorded(source: HubSource, cache_dir: Path | None) -> bool:
    """Return whether the cache has a record of this repository at this revision, so that no request is needed."""
    return _record_file(cache_folder(cache_dir) / "records", source).is_file()


def _snapshot(source: HubSource, snapshots: Path | None, records: Path, progress: Progress) -> Path:
    """Return the snapshot's folder; take a commit that was verified before from the cache, without a request."""
    import huggingface_hub  # 0.3 s, and only this source needs it
    from huggingface_hub import errors

    def download(revision: str | None, *, local_files_only: bool, ignored: Sequence[str] = IGNORED_PATTERNS) -> Path:
        with _DownloadedBytes(progress, source.repository) as downloaded:
            folder = huggingface_hub.snapshot_download(
                source.repository,
                revision=revision,
                cache_dir=snapshots,
                allow_patterns=list(CHECKPOINT_PATTERNS),
                ignore_patterns=list(ignored),
                tqdm_class=_bar_class(downloaded),
                local_files_only=local_files_only,
            )
        return Path(folder)

    record = read_record(_record_file(records, source))
    if record is not None and record.revision == source.revision:  # a commit, which cannot have changed
        try:
            folder = download(source.revision, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            pass  # the snapshot was deleted since: fetch it again, and compare with the record
        else:
            # Links without their blobs are listed as files; huggingface_hub before 1.22 returns a snapshot that has them.
            if all((folder / name).is_file() for name in record.sha256):
                return folder
    progress.line(f"Downloading {source.repository}")
    try:
        info = _model_info(source)
    except UnreachableError as error:
        try:
            return download(record.revision if record else source.revision, local_files_only=True)
        except OSError:
            raise error from error.__cause__
    names = [sibling.rfilename for sibling in info.siblings or ()]
    try:
        return download(info.sha, local_files_only=False, ignored=_ignored_patterns(names))
    except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise _translate(error, source, snapshots) from error


def find_commit(source: HubSource) -> str:
    """Return the commit that a repository's revision names now.

    Raises:
        UnreachableError: the hub does not answer.
        SourceError: it has no such repository or revision, or refuses access.
    """
    return str(_model_info(source).sha or "main")


def _model_info(source: HubSource) -> Any:
    """Return what the hub says of a repository's revision: its commit and the names of its files; errors as `find_commit`."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        # This request fails at once: snapshot_download repeats its first request for 25 s.
        return huggingface_hub.HfApi().model_info(source.repository, revision=source.revision, timeout=_TIMEOUT)
    except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        # errors.HTTPError is the base of whichever HTTP library this huggingface_hub uses (requests, httpx, httpx2).
        if _status(error) in _FINAL or isinstance(error, errors.HFValidationError):
            raise _translate(error, source, None) from error
        raise _unreachable(source) from error


def download_file(source: HubSource, name: str, folder: Path) -> Path | None:
    """Download one file of a repository, and continue a download that was cut.

    Args:
        source: the repository at a commit.
        name: path of the file in it.
        folder: folder that receives the file at this path, and the records of huggingface_hub.

    Returns:
        The file; None if the repository does not have it.

    Raises:
        SourceError: the hub cannot be reached or refuses, or the disk is full.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
        with _DownloadedBytes(SILENT, source.repository) as downloaded:
            huggingface_hub.snapshot_download(
                source.repository,
                revision=source.revision,
                allow_patterns=[name],
                local_dir=folder,
                tqdm_class=_bar_class(downloaded),
            )
    except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise _translate(error, source, folder) from error
    return folder / name if (folder / name).is_file() else None


def _ignored_patterns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns of files that are not downloaded.

    Pickles are downloaded where they alone hold weights, and files two folders down where they are a Router's.
    """
    pickles = needed_pickles(names) | token_heads(names)
    formats = (".bin", ".bin.index.json", ".pt") if pickles else ()
    below = [name for name in names if name.count("/") > 1]
    has_router = not all(map(is_deep, below))
    left_out = {pattern for pattern in IGNORED_PATTERNS if pattern.removeprefix("*") in formats}
    left_out |= {"*/*/*"} if has_router else set()
    unused = [name for name in names if name.endswith(formats) and name not in pickles] if formats else []
    unused += filter(is_deep, below) if has_router else []
    return (*(pattern for pattern in IGNORED_PATTERNS if pattern not in left_out), *unused)


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _unreachable(source: HubSource) -> UnreachableError:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return UnreachableError(f"{source}: is not in the cache, and HF_HUB_OFFLINE forbids asking the hub: unset it")
    return UnreachableError(
        f"{source}: {constants.ENDPOINT} cannot be reached and the cache does not have it: check the network, or set "
        "HF_ENDPOINT to a mirror"
    )


def _translate(error: Exception, source: HubSource, snapshots: Path | None) -> SourceError:
    """Translate an error of huggingface_hub to one with a next step for the user."""
    from huggingface_hub import constants, errors

    repository = source.repository
    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        return SourceError(
            f"{source}: the repository is gated. Accept its terms at {constants.ENDPOINT}/{repository}, then set "
            "HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"{source}: {repository} exists, but has no revision {source.revision!r}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return SourceError(
            f"{source}: {constants.ENDPOINT} has no repository {repository}, or it is private: check the spelling, or "
            "set HF_TOKEN to a token that may read it"
        )
    if status in (401, 403):
        return SourceError(f"{source}: {constants.ENDPOINT} refuses access ({status}): check HF_TOKEN")
    if status is not None:
        return SourceError(f"{source}: {constants.ENDPOINT} answered {status}; try again later")
    if isinstance(error, errors.HFValidationError):
        return SourceError(f"{source}: is not a hub id: {error}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _unreachable(source)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_error(error, snapshots or Path(constants.HF_HUB_CACHE))
    return SourceError(f"{source}: the download was interrupted ({error}). Try again: complete files stay in the cache")


class _DownloadedBytes:
    """`_DownloadedBytes`: the counter of one download, opened when its first bytes arrive."""

    def __init__(self, progress: Progress, repository: str) -> None:
        self._progress = progress
        self._repository = repository
        self._counter: Counter | None = None
        self._stack = ExitStack()
        self._lock = Lock()

    def add(self, count: int, total: int | None) -> None:
        """Count bytes; huggingface_hub calls it from several threads.

        Args:
            count: new bytes.
            total: bytes of all files whose sizes are known so far.
        """
        with self._lock:
            if self._counter is None:
                counter = self._progress.count(f"Downloading {self._repository}", total=total, units=("bytes",))
                self._counter = self._stack.enter_context(counter)
            self._counter.advance(count, total=total)

    def __enter__(self) -> _DownloadedBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _bar_class(downloaded: _DownloadedBytes) -> type[Any]:
    """Return a tqdm class that draws nothing and adds the bytes that arrive to `downloaded`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True  # a disabled tqdm sets neither its count nor its total
            # Two bars count bytes: as they arrive ("Downloading bytes") and as they are written. The last one counts.
            self.counts = kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self.total = kwargs.get("total")
            if self.counts and kwargs.get("initial"):
                self.update(kwargs["initial"])

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                downloaded.add(int(n), int(self.total) if self.total else None)

    return Bar
