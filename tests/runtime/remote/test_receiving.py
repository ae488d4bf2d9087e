"""Hashing and syncing beside a download: the sha256 is hashlib's, and a failed disk is an error of the download."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fletcher.runtime.remote import receiving
from fletcher.runtime.remote.receiving import Receiver, helpers
from fletcher.runtime.remote.source import RANGE_BYTES, RANGES, ObjectFiles
from fletcher.runtime.remote.store import ObjectStore
from fletcher.runtime.remote.url import parse_url


def test_the_digest_is_that_of_all_bytes_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "SYNC_BYTES", 1000)
    blocks = [secrets.token_bytes(size) for size in (1, 70_000, 10, 300_000, 0, 5)] * 10
    target = tmp_path / "file"
    target.write_bytes(blocks[0])
    with helpers() as threads, target.open("a+b") as file:
        receiver = Receiver(file, target, threads)
        receiver.hash(blocks[0])
        for block in blocks[1:]:
            receiver.append(block)
        assert receiver.hexdigest() == hashlib.sha256(b"".join(blocks)).hexdigest()
        assert receiver.size == sum(map(len, blocks))
        threads.sync_later(target)
        threads.finish()
    assert target.read_bytes() == b"".join(blocks)


def test_a_disk_that_fails_is_an_error(tmp_path: Path) -> None:
    with helpers() as threads:
        threads.sync_later(tmp_path / "gone")
        threads.settle()
        with pytest.raises(FileNotFoundError):
            threads.finish()


def test_blocks_that_wait_for_the_hash_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going = threading.Event()
    before = threading.active_count()

    class Slow:
        def update(self, block: bytes) -> None:
            assert going.wait(30)

    with helpers() as threads, (tmp_path / "file").open("a+b") as file:
        receiver = Receiver(file, tmp_path / "file", threads)
        monkeypatch.setattr(receiver, "_digest", Slow())

        def fill() -> None:
            for _ in range(100):
                receiver.append(bytes(1000))

        filling = threading.Thread(target=fill)
        filling.start()
        filling.join(0.2)
        assert filling.is_alive()
        assert receiver.size == (receiving.WAITING + 1) * 1000
        going.set()
        filling.join()
        assert receiver.size == 100_000
    assert threading.active_count() == before


def test_a_reader_that_leaves_ends_the_threads_and_takes_a_bounded_part(tmp_path: Path) -> None:
    size = (RANGES + 4) * RANGE_BYTES
    (tmp_path / "large.bin").write_bytes(bytes(size))
    asked: list[int] = []

    class Counted(ObjectStore):
        def stream_range(self, name: str, start: int, length: int) -> Iterator[memoryview]:
            asked.append(start)
            return super().stream_range(name, start, length)

    blocks = ObjectFiles(Counted(parse_url(f"file://{tmp_path}"))).blocks("large.bin", 0, size, tmp_path)
    assert not any(next(blocks))
    before = threading.active_count()
    blocks.close()
    assert len(asked) == RANGES
    assert threading.active_count() <= before - 1
