"""`Source`: the files of one artifact at a URL, in an object store, in a folder or on the hub."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Final, Protocol

from ..artifact.folder import LARGEST_MANIFEST, MANIFEST, Artifact
from ..artifact.manifest import FileInfo
from ..errors import ArtifactError, ChecksumError, RefusedError, SourceError
from ..origin.signature import SIGNATURE
from .hub import HubFiles
from .store import ObjectStore
from .url import ArtifactUrl

__all__ = ["Index", "ObjectFiles", "Source", "open_source", "read_index", "require_digest"]

#: Bytes of a request, and requests that are on the way at the same time: 32 MiB of memory.
RANGE_BYTES: Final = 8 << 20
RANGES: Final = 4

#: Largest size of a signature in bytes.
LARGEST_SIGNATURE: Final = 4 << 20

#: What may stand before a digest.
SHA256: Final = "sha256:"


class Source(Protocol):
    """`Source`: files of an artifact that can be read."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a small file; None if there is no such file.

        Raises:
            SourceError: it cannot be read, or is larger than `limit`.
        """

    def blocks(self, name: str, start: int, size: int, scratch: Path) -> Iterator[memoryview | bytes]:
        """Yield the bytes of a file from a position to its end, in order.

        Args:
            name: name of the file.
            start: the position.
            size: size of the file in bytes.
            scratch: folder for temporary files, which a later call for the same artifact gets again.

        Raises:
            SourceError: they cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Index:
    """Everything small of an artifact, which says what its other files must be.

    Attributes:
        manifest: bytes of its manifest.
        signature: bytes of its signature, or None.
        files: size and sha256 of the other files, by name.
        digest: digest of the artifact.
        model: name of its model.
    """

    manifest: bytes
    signature: bytes | None
    files: dict[str, FileInfo]
    digest: str
    model: str

    @property
    def key(self) -> str:
        """Hex sha256 of manifest and signature, and so of every byte of the artifact."""
        return hashlib.sha256(self.manifest + b"\0" + (self.signature or b"")).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return len(self.manifest) + len(self.signature or b"") + sum(info.size for info in self.files.values())


class ObjectFiles:
    """Files of an artifact in an object store or in a folder."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a small file; see `Source.read`."""
        try:
            found = self._store.read(name, limit)
        except FileNotFoundError:
            return None
        return None if found is None else found.data

    def blocks(self, name: str, start: int, size: int, scratch: Path) -> Generator[memoryview, None, None]:
        """Yield the bytes of a file; see `Source.blocks`. The next ranges arrive while the caller uses a block."""
        ranges = iter([(at, min(RANGE_BYTES, size - at)) for at in range(start, size, RANGE_BYTES)])
        arriving: deque[SimpleQueue[memoryview | BaseException | None]] = deque()
        left = Event()

        def receive(begin: int, length: int, to: SimpleQueue[memoryview | BaseException | None]) -> None:
            try:
                for block in self._store.stream_range(name, begin, length):
                    if left.is_set():
                        return
                    to.put(block)
                to.put(None)
            except BaseException as error:  # noqa: BLE001  the caller raises it
                to.put(error)

        def ask() -> None:
            if (asked := next(ranges, None)) is not None:
                arriving.append(SimpleQueue())
                pool.submit(receive, *asked, arriving[-1])

        with ThreadPoolExecutor(RANGES, thread_name_prefix="fletcher-download") as pool:
            try:
                for _ in range(RANGES):
                    ask()
                while arriving:
                    while (block := arriving[0].get()) is not None:
                        if isinstance(block, BaseException):
                            raise block
                        yield block
                    arriving.popleft()
                    ask()
            finally:
                left.set()
                pool.shutdown(wait=False, cancel_futures=True)


def open_source(url: ArtifactUrl) -> Source:
    """Return the source of an artifact's URL.

    Raises:
        MissingPackageError: obstore is not installed, and the URL is not the hub's.
        InputError: the store needs a setting that the environment does not have.
        SourceError: the hub has no such repository, or refuses it.
    """
    return HubFiles(url.hub, url.path) if url.scheme == "hf" else ObjectFiles(ObjectStore(url))


def read_index(source: Source, url: ArtifactUrl) -> Index:
    """Read and check the manifest at a URL, and the signature if there is one.

    Args:
        source: the source.
        url: the URL, for messages.

    Raises:
        SourceError: there is no artifact at the URL, or it cannot be read.
        ArtifactError: its manifest is damaged or of another format version.
    """
    manifest = source.read(MANIFEST, LARGEST_MANIFEST)
    if manifest is None:
        raise SourceError(
            f"{url} is not an artifact: it has no {MANIFEST}. `fletcher-convert model list URL` lists artifacts"
        )
    place = Path(str(url))
    try:
        artifact = Artifact.parse(place, manifest)
    except (ArtifactError, ChecksumError) as error:
        raise type(error)(str(error).replace(str(place), str(url))) from None
    try:
        signature = source.read(SIGNATURE, LARGEST_SIGNATURE)
    except RefusedError:
        # S3 refuses an object that is not there, instead of saying so, if the reader may not list the bucket. Without the
        # signature, an artifact whose signature is required is not loaded.
        signature = None
    return Index(manifest, signature, dict(artifact.manifest.files), artifact.digest, artifact.manifest.card.name)


def require_digest(url: ArtifactUrl, digest: str | None, expected: str | None) -> None:
    """Compare a digest with the one that is required.

    Args:
        url: URL of the artifact or the alias that has the digest, for the message.
        digest: the digest, perhaps after `sha256:`; None is not compared.
        expected: digest that is required, perhaps after `sha256:`; None accepts every digest.

    Raises:
        ChecksumError: they differ.
    """
    if digest is None or expected is None or digest.removeprefix(SHA256) == expected.removeprefix(SHA256):
        return
    raise ChecksumError(
        f"{url} has the digest sha256:{digest.removeprefix(SHA256)}, and sha256:{expected.removeprefix(SHA256)} is required: "
        "push the right artifact, or ask for the origin of this one"
    )
