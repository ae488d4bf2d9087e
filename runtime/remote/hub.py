"""`HubFiles`: files of an artifact in a repository of the HuggingFace hub, by huggingface_hub's own download."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fletcher.model_zoo.locator import HubSource
from fletcher.model_zoo.sources.hub import download_file, find_commit

from ..errors import SourceError

__all__ = ["HubFiles"]

BLOCK_BYTES: Final = 1 << 20


class HubFiles:
    """Files below a path of a repository, at the commit that the revision names now."""

    def __init__(self, repository: HubSource, path: str) -> None:
        """Find the commit.

        Raises:
            SourceError: the hub cannot be reached, has no such repository or revision, or refuses access.
        """
        self._repository = HubSource(repository.repository, find_commit(repository))
        self._path = path

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a small file; see `Source.read`."""
        with tempfile.TemporaryDirectory(prefix="fletcher-hub-") as folder:
            file = download_file(self._repository, self._below(name), Path(folder))
            if file is None:
                return None
            if file.stat().st_size > limit:
                raise SourceError(f"{self._repository}: {name} has more than {limit} bytes")
            return file.read_bytes()

    def blocks(self, name: str, start: int, size: int, scratch: Path) -> Iterator[bytes]:
        """Yield the bytes of a file; see `Source.blocks`. huggingface_hub continues a cut download in the scratch folder."""
        file = download_file(self._repository, self._below(name), scratch)
        if file is None:
            raise SourceError(
                f"{self._repository} has no file {self._below(name)}, which the artifact's manifest lists"
            )
        with file.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(BLOCK_BYTES):
                yield block
        shutil.rmtree(scratch, ignore_errors=True)

    def _below(self, name: str) -> str:
        return "/".join(part for part in (self._path, name) if part)
