"""`locate`: the folder on this machine of an artifact that has a URL."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fletcher.model_zoo.progress import SILENT, Progress

from ..closing import Closing
from ..errors import UnreachableError
from .alias import read_alias
from .node_cache import Cached, NodeCache
from .source import Index, Source, open_source, read_index, require_digest
from .url import ArtifactUrl, is_url, parse_url

__all__ = ["Located", "fetch", "locate", "relocate"]

logger = logging.getLogger("fletcher.runtime.remote")

SHA256: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class Located(Closing):
    """An artifact's folder on this machine; a context manager that allows its removal at the end.

    Attributes:
        folder: the folder, which must not be changed.
        cached: the artifact in the cache; None for a folder that was given as such.
        version: version of the alias that named it; empty without an alias.
    """

    folder: Path
    cached: Cached | None = None
    version: str = ""

    def close(self) -> None:
        """Let the cache remove the folder when it needs room."""
        if self.cached is not None:
            self.cached.hold.close()


def locate(path: str | Path, *, digest: str | None = None, progress: Progress = SILENT) -> Located:
    """Return the folder of an artifact; download it into the cache of this machine if it has a URL and is not there.

    A digest that the cache has is taken without a request. If a server does not answer, the artifact that its URL had last is
    taken from the cache, with a warning in the log. `fletcher.json` is always read first, so that a digest that differs is
    found before anything large is downloaded.

    Args:
        path: a folder, which is returned as it is, or a URL of an artifact or an alias.
        digest: digest that the artifact must have, perhaps after `sha256:`; None accepts every digest.
        progress: receives a line for each step, and the bytes.

    Raises:
        InputError: the URL is malformed, or a setting of its store is missing.
        MissingPackageError: obstore is not installed.
        SourceError: there is no artifact, access is refused, or the cache cannot take it.
        UnreachableError: the server does not answer, and the cache does not have the artifact.
        ArtifactError: the artifact's manifest is damaged or of another format version.
        ChecksumError: the artifact has another digest, or one of its files other bytes than the manifest says.
    """
    if not is_url(path):
        return Located(Path(path))
    url, cache = parse_url(str(path)), NodeCache()
    expected = None if digest is None else digest.removeprefix(SHA256)
    known = cache.recall(url)
    if known is not None and known.digest == expected and (cached := cache.find(known.key)) is not None:
        return Located(cached.folder, cached)
    try:
        return fetch(url, digest=expected, progress=progress)
    except UnreachableError as error:
        if known is None or expected not in (None, known.digest) or (cached := cache.find(known.key)) is None:
            raise
        fields = {"url": str(url), "digest": known.digest, "reason": str(error)}
        logger.warning("the server with the artifact does not answer; its last one is used", extra={"fields": fields})
        return Located(cached.folder, cached)


def relocate(folder: str | Path) -> Located | None:
    """Return the artifact of a folder that `locate` returned earlier, perhaps in another process; None if it was removed."""
    cached = NodeCache().hold_folder(Path(folder))
    return None if cached is None else Located(cached.folder, cached)


def fetch(url: ArtifactUrl, *, digest: str | None = None, progress: Progress = SILENT) -> Located:
    """Return the folder of the artifact that a URL has now, as its server says; download it if the cache does not have it.

    Args:
        url: URL of an artifact or an alias.
        digest: as for `locate`.
        progress: as for `locate`.

    Raises:
        UnreachableError: the server does not answer.
        As `locate`.
    """
    target, version, cache, expected = url, "", NodeCache(), digest
    if url.is_alias:
        alias = read_alias(url)
        assert alias is not None  # no version was given
        target, version = alias.url, alias.version
        require_digest(url, alias.digest, expected)
        expected = alias.digest or expected
    source = open_source(target)
    index = read_index(source, target)
    require_digest(target, index.digest, expected)
    cached = cache.find(index.key) or _fetch(target, cache, source, index, progress)
    try:
        cache.remember(url, index)
    except BaseException:
        cached.hold.close()
        raise
    return Located(cached.folder, cached, version)


def _fetch(url: ArtifactUrl, cache: NodeCache, source: Source, index: Index, progress: Progress) -> Cached:
    started = time.perf_counter()
    progress.line(f"Fetching {url}")
    fields = {"url": str(url), "digest": index.digest, "bytes": index.size}
    logger.info("downloading the artifact", extra={"fields": fields})
    cached = cache.fetch(source, index, progress)
    seconds = round(time.perf_counter() - started, 3)
    logger.info("artifact downloaded", extra={"fields": fields | {"seconds": seconds}})
    return cached
