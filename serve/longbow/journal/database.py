"""An SQLite file with one writer: transactions, and the translation of SQLite's errors."""

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
    """A database whose commits survive a crash of the process. Safe to use from several threads."""

    def __init__(self, path: Path, tables: str) -> None:
        """Open the database, or create it.

        Args:
            path: path of the file.
            tables: statements that create missing tables, separated by semicolons.

        Raises:
            InputError: the file is not a database, or another process writes it.
            OSError: the file cannot be written, for example because the disk is full.
        """
        self.path = path
        self._lock = threading.RLock()
        with self._translated():
            self._connection = sqlite3.connect(path, timeout=1.0, check_same_thread=False, isolation_level=None)
        try:
            with self._translated():
                for pragma in (
                    "journal_mode=WAL",
                    # One writer at a time: two jobs on one journal would claim the same documents.
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
        """Return all rows of a query."""
        with self._lock, self._translated():
            return self._connection.execute(query, values).fetchall()

    def number(self, query: str) -> int:
        """Return the only number of a query; 0 if it is null."""
        return int(self.rows(query)[0][0] or 0)

    def numbers(self, query: str, *values: object) -> NDArray[np.int64]:
        """Return the only column of a query, int64, (n,)."""
        with self._lock, self._translated():
            return np.fromiter((row[0] for row in self._connection.execute(query, values)), np.int64)

    def write(self, statement: str, *values: object) -> None:
        """Run a statement. Call it within a transaction."""
        with self._lock, self._translated():
            self._connection.execute(statement, values)

    def write_many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each of several rows. Call it within a transaction."""
        with self._lock, self._translated():
            self._connection.executemany(statement, rows)

    @contextmanager
    def transaction(self, *, rollback: bool = False) -> Iterator[None]:
        """Open a transaction. Inside another one of the same thread, it is a part of that one.

        Args:
            rollback: whether to roll back at the end.
        """
        with self._lock, self._translated():
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
    def _translated(self) -> Iterator[None]:
        """Translate SQLite's errors."""
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
                    28, "no space left for the journal; free some space and run the job again", str(self.path)
                ) from error
            if "unable to open" in text or "readonly" in text:
                raise InputError(
                    f"{self.path}: the journal cannot be written ({text}); name another with --journal"
                ) from error
            raise InputError(
                f"{self.path} is not a journal of Fletcher, or it is damaged ({text}); name another file"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
