"""An SQLite file with one writer: transactions, and SQLite's errors as ours."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.errors import InputError

__all__ = ["Database"]


class Database:
    """Commits survive the process (write-ahead log, synchronous=NORMAL). Safe to use from several threads."""

    def __init__(self, path: Path, tables: str) -> None:
        """Opens or makes it.

        Args:
            path: of the file.
            tables: statements that make what is not there, between semicolons.

        Raises:
            InputError: it is no database, or somebody else writes it.
            OSError: it cannot be written, for example because the disk is full.
        """
        self.path = path
        self._lock = threading.RLock()
        with self._named():
            self._connection = sqlite3.connect(path, timeout=1.0, check_same_thread=False, isolation_level=None)
        try:
            with self._named():
                for pragma in (
                    "journal_mode=WAL",
                    # One writer at a time: two jobs on one journal would each claim what the other sends.
                    "locking_mode=EXCLUSIVE",
                    "synchronous=NORMAL",
                    "cache_size=-16384",
                ):
                    self._connection.execute(f"PRAGMA {pragma}")
                self._connection.execute("BEGIN EXCLUSIVE")
                for statement in tables.split(";"):
                    self._connection.execute(statement)
                self._connection.execute("COMMIT")
        except BaseException:
            self._connection.close()
            raise

    def rows(self, query: str, *values: object) -> list[Any]:
        """All rows of an answer."""
        with self._lock, self._named():
            return self._connection.execute(query, values).fetchall()

    def number(self, query: str) -> int:
        """The one number of an answer; 0 where it is null."""
        return int(self.rows(query)[0][0] or 0)

    def numbers(self, query: str, *values: object) -> NDArray[np.int64]:
        """An answer of one column of numbers, int64, (n,)."""
        with self._lock, self._named():
            return np.fromiter((row[0] for row in self._connection.execute(query, values)), np.int64)

    def write(self, statement: str, *values: object) -> None:
        """Does a statement; within a transaction."""
        with self._lock, self._named():
            self._connection.execute(statement, values)

    def write_many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Does a statement for each of several rows; within a transaction."""
        with self._lock, self._named():
            self._connection.executemany(statement, rows)

    @contextmanager
    def transaction(self, *, rollback: bool = False) -> Iterator[None]:
        """All of it or nothing; inside another one of the same thread a part of that.

        Args:
            rollback: nothing, in any case.
        """
        with self._lock, self._named():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("ROLLBACK" if rollback else "COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise InputError(
                    f"{self.path}: another job writes this journal; wait for it, or name another with --journal"
                ) from error
            if "full" in text or "disk I/O" in text:
                raise OSError(
                    28, "no space left for the journal; run the job again once there is some", str(self.path)
                ) from error
            if "unable to open" in text or "readonly" in text:
                raise InputError(
                    f"{self.path}: the journal cannot be written ({text}); name another with --journal"
                ) from error
            raise InputError(
                f"{self.path} is no journal of Fletcher's, or damaged ({text}); name another file"
            ) from error

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()
