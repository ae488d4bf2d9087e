"""`Receiver`: a file that other threads hash and write to the disk while its next blocks arrive."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from ..artifact.durable import sync

__all__ = ["Helpers", "Receiver", "helpers"]

#: Blocks that may wait for the hash: they bound the memory if hashing is slower than the network.
WAITING: Final = 8

#: Bytes after which the disk begins to write them: the sync at the end then has little to wait for.
SYNC_BYTES: Final = 16 << 20


class Helpers:
    """Threads of a download: one hashes, one writes pages of files to the disk."""

    def __init__(self, hashing: ThreadPoolExecutor, syncing: ThreadPoolExecutor) -> None:
        self.hashing = hashing
        self.syncing = syncing
        self._files: list[Future[None]] = []

    def sync_later(self, path: Path) -> Future[None]:
        """Write a file to the disk on the other thread; `finish` waits for it."""
        self._files.append(self.syncing.submit(sync, path))
        return self._files[-1]

    def settle(self) -> None:
        """Wait until no file is being written to the disk, whether that failed or not: a file may be removed then."""
        wait(self._files)

    def finish(self) -> None:
        """Wait until all files are on the disk.

        Raises:
            OSError: the disk failed.
        """
        for each in self._files:
            each.result()


@contextmanager
def helpers() -> Iterator[Helpers]:
    """Yield the threads of a download, and end them."""
    with (
        ThreadPoolExecutor(1, thread_name_prefix="fletcher-hash") as hashing,
        ThreadPoolExecutor(1, thread_name_prefix="fletcher-sync") as syncing,
    ):
        yield Helpers(hashing, syncing)


class Receiver:
    """Writer of one file. Blocks must not change after they were given."""

    def __init__(self, file: BinaryIO, path: Path, threads: Helpers) -> None:
        """Prepare.

        Args:
            file: the file, open for appending.
            path: its path.
            threads: threads of the download.
        """
        self._file, self._path, self._threads = file, path, threads
        self._digest = hashlib.sha256()
        self._hashing: deque[Future[None]] = deque()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self.size = 0

    def hash(self, block: memoryview | bytes) -> None:
        """Add a block that the file has already."""
        self._hashing.append(self._threads.hashing.submit(self._digest.update, block))
        self.size += len(block)
        while len(self._hashing) > WAITING:
            self._hashing.popleft().result()

    def append(self, block: memoryview | bytes) -> None:
        """Add a block at the end of the file.

        Raises:
            OSError: the disk is full or failed.
        """
        self.hash(block)
        self._file.write(block)
        self._unsynced += len(block)
        if self._unsynced >= SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._syncing, self._unsynced = self._threads.sync_later(self._path), 0

    def hexdigest(self) -> str:
        """Return the sha256 of all blocks."""
        while self._hashing:
            self._hashing.popleft().result()
        return self._digest.hexdigest()
