"""State of every document, on disk (SQLite), so that a new process can continue after the old one was killed.

A document is claimed, with its id and its unit, before it is sent. A unit is a few hundred documents that are sent together.
It has one of three states:

    CLAIMED   no row of it was sent
    SENDING   some rows may have been sent: the unit is in doubt until Longbow is asked
    ACKED     Longbow acknowledged all rows

Commits survive a crash of the process. A power failure may undo the last ones; then rows that Longbow has are sent again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.closing import Closing
from fletcher.runtime.errors import InputError

from .database import Database
from .ids import candidate

__all__ = ["Claim", "Entry", "Journal", "Verdict"]

CLAIMED: Final = 0
SENDING: Final = 1
ACKED: Final = 2

#: Unit of removed documents. Their entries stay, so that the ids of documents that collided with them do not change.
REMOVED: Final = -1

FORMAT: Final = "2"

TABLES: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (unit INTEGER PRIMARY KEY, state INTEGER NOT NULL, rows INTEGER NOT NULL, at REAL);
CREATE TABLE IF NOT EXISTS documents (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, digest BLOB NOT NULL, unit INTEGER NOT NULL, run INTEGER NOT NULL,
  stale INTEGER NOT NULL DEFAULT 0);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A document of the input.

    Attributes:
        key: identity of the document, 16 bytes.
        digest: digest of its content, 16 bytes.
        fixed: id that the user gave, or None.
    """

    key: bytes
    digest: bytes
    fixed: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Decision about a document.

    Attributes:
        kind: `send`; `known`: Longbow has it already; `duplicate`: equal to an earlier document of this run; `conflict`: an
            earlier document of this run has the same key and another content.
        id: id of the document.
        stale: whether the row of its former content must be deleted first.
    """

    kind: str
    id: int
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Documents that were looked up together.

    Attributes:
        unit: unit of the documents to send.
        verdicts: one verdict for each document, in order.
    """

    unit: int
    verdicts: Sequence[Verdict]


class Journal(Closing):
    """State of all documents in one file, with one writer. Safe to use from several threads. A context manager."""

    def __init__(self, path: Path, facts: Mapping[str, str]) -> None:
        """Open a journal, or create it, and begin a run.

        Args:
            path: path of the file.
            facts: values by name that must not change in a journal: the digest of the model, the dataset, the options.

        Raises:
            InputError: the journal has other facts, the file is not a journal, or another process writes it.
            OSError: the file cannot be written, for example because the disk is full.
        """
        #: Unique beginning of the marks of this journal's units.
        self.marks = ""
        self.path = path
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent} for the journal; create it first")
        self._db = Database(path, TABLES)
        try:
            self._check({"format": FORMAT, **facts})
            self.run = int(self.fact("run") or 0) + 1
            self._unit = self._db.number("SELECT max(unit) FROM units")
            if self.fact("mark") is None:
                self.set_fact("mark", secrets.token_hex(6))
            self.marks = str(self.fact("mark"))
            self.set_fact("run", str(self.run))
            self._open = {row[0] for row in self._db.rows("SELECT unit FROM units WHERE state != ?", ACKED)}
        except BaseException:
            self._db.close()
            raise

    def _check(self, facts: Mapping[str, str]) -> None:
        for name, value in facts.items():
            stored = self.fact(name)
            if stored is None:
                self.set_fact(name, value)
            elif stored != value:
                raise InputError(
                    f"{self.path} is the journal of another job: its {name} is {stored!r}, and this job's is {value!r}. "
                    "Name another journal with --journal, or run the job that it belongs to"
                )

    # Facts ------------------------------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """Return a fact, or None."""
        rows = self._db.rows("SELECT value FROM facts WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set_fact(self, name: str, value: str) -> None:
        """Store a fact."""
        with self._db.transaction():
            self._db.write("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    def count(self, name: str) -> int:
        """Return a fact as a number; 0 if it is not stored."""
        return int(self.fact(name) or 0)

    def add(self, name: str, amount: int) -> None:
        """Add to a fact that is a number."""
        with self._db.transaction():
            self.set_fact(name, str(self.count(name) + amount))

    # Documents --------------------------------------------------------------------------------------------------------

    def claim(self, entries: Sequence[Entry], *, dry: bool = False) -> Claim:
        """Decide about documents, and store the decisions.

        Args:
            entries: documents, in the order of the input.
            dry: whether to store nothing.
        """
        with self._db.transaction(rollback=dry):
            self._unit += 1
            unit = self._unit
            stored = self._lookup([self._first_choice(entry) for entry in entries])
            writes: dict[int, tuple[int, bytes, bytes, int, int, int]] = {}
            verdicts = [self._decide(entry, unit, stored, writes) for entry in entries]
            self._db.write_many("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)", writes.values())
            if rows := sum(verdict.kind == "send" for verdict in verdicts):
                self._db.write("INSERT INTO units VALUES (?, ?, ?, NULL)", unit, CLAIMED, rows)
        return Claim(unit, verdicts)

    def _first_choice(self, entry: Entry) -> int:
        return candidate(entry.key, 0) if entry.fixed is None else entry.fixed

    def _lookup(self, ids: Sequence[int]) -> dict[int, tuple[bytes, bytes, int, int, int]]:
        entries = {}
        for start in range(0, len(ids), 5000):  # SQLite takes 32,766 parameters
            part = ids[start : start + 5000]
            marks = ",".join("?" * len(part))
            query = f"SELECT id, key, digest, unit, run, stale FROM documents WHERE id IN ({marks})"
            for row in self._db.rows(query, *part):
                entries[row[0]] = row[1:]
        return entries

    def _decide(
        self,
        entry: Entry,
        unit: int,
        stored: dict[int, tuple[bytes, bytes, int, int, int]],
        writes: dict[int, tuple[int, bytes, bytes, int, int, int]],
    ) -> Verdict:
        choice = 0
        row = self._first_choice(entry)
        while (current := stored.get(row)) is not None and current[0] != entry.key:
            choice += 1  # another document has the id
            row = candidate(entry.key, choice)
            if row not in stored:
                stored.update(self._lookup([row]))
        verdict, state = self._judge(entry, row, unit, current)
        if state is not None:
            stored[row] = state
            writes[row] = (row, *state)
        return verdict

    def _judge(
        self, entry: Entry, row: int, unit: int, current: tuple[bytes, bytes, int, int, int] | None
    ) -> tuple[Verdict, tuple[bytes, bytes, int, int, int] | None]:
        """Return the decision about a document, and its new entry in the table."""
        if current is None or current[2] == REMOVED:
            return Verdict("send", row), (entry.key, entry.digest, unit, self.run, 0)
        _, digest, former, run, stale = current
        if run == self.run:
            return Verdict("duplicate" if digest == entry.digest else "conflict", row), None
        if former in self._open:  # claimed by a run that was interrupted
            return Verdict("send", row, bool(stale)), (entry.key, entry.digest, unit, self.run, stale)
        if digest == entry.digest:
            return Verdict("known", row), (entry.key, digest, former, self.run, 0)
        return Verdict("send", row, True), (entry.key, entry.digest, unit, self.run, 1)

    @property
    def documents(self) -> int:
        """Number of documents, including those that were removed."""
        return self._db.number("SELECT count(*) FROM documents")

    def adopt(self, documents: Iterable[tuple[int, Entry]]) -> None:
        """Store documents that Longbow has and that this journal did not send.

        Args:
            documents: ids and entries of the documents.
        """
        with self._db.transaction():
            self._unit += 1  # a unit of 0 rows: the baseline of this journal includes these rows
            self._db.write("INSERT INTO units VALUES (?, ?, ?, NULL)", self._unit, ACKED, 0)
            rows = ((row, one.key, one.digest, self._unit, 0, 0) for row, one in documents)
            self._db.write_many("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)", rows)

    def unseen(self) -> Iterator[NDArray[np.int64]]:
        """Yield the ids of documents that this run did not read. Remove each array of ids before you take the next one."""
        query = "SELECT id FROM documents WHERE run < ? AND unit != ? LIMIT 1000"
        while rows := self._db.rows(query, self.run, REMOVED):
            yield np.array([row[0] for row in rows], np.int64)

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Store that documents were removed."""
        with self._db.transaction():
            self._db.write_many("UPDATE documents SET unit = ? WHERE id = ?", [(REMOVED, row) for row in ids.tolist()])

    def placed(self) -> NDArray[np.uint64]:
        """Return every document that this journal sent to Longbow, as `id << 32 | unit`; uint64, (n,)."""
        query = "SELECT id << 32 | unit FROM documents WHERE unit IN (SELECT unit FROM units WHERE state = ? AND rows)"
        return self._db.numbers(query, ACKED).view(np.uint64)

    def forget(self, ids: NDArray[np.int64]) -> None:
        """Store that Longbow does not have these documents. The next run that reads them sends them."""
        if not len(ids):
            return
        with self._db.transaction():
            self._unit += 1
            self._db.write("INSERT INTO units VALUES (?, ?, ?, NULL)", self._unit, CLAIMED, 0)
            moved = [(self._unit, row) for row in ids.tolist()]
            self._db.write_many("UPDATE documents SET unit = ?, stale = 0 WHERE id = ?", moved)
            self._open.add(self._unit)

    def forget_all(self) -> int:
        """Delete all documents and units, because the dataset does not exist anymore. Return the number of documents."""
        with self._db.transaction():
            lost = self._db.number("SELECT count(*) FROM documents WHERE unit != -1")
            self._db.write("DELETE FROM units")
            self._db.write("DELETE FROM documents")
        self._open.clear()
        self.marks = secrets.token_hex(6)  # units are numbered from 1 again
        for name, value in (("baseline", "0"), ("deleted", "0"), ("mark", self.marks)):
            self.set_fact(name, value)
        return lost

    def mark(self, unit: int) -> str:
        """Return the mark with which the metadata of a unit's rows begin."""
        return f"{self.marks}-{unit}"

    # Units ------------------------------------------------------------------------------------------------------------

    def sending(self, unit: int) -> None:
        """Store that the sending of a unit begins."""
        with self._db.transaction():
            self._db.write("UPDATE units SET state = ?, at = ? WHERE unit = ?", SENDING, time.time(), unit)

    def acked(self, unit: int) -> None:
        """Store that Longbow acknowledged all rows of a unit."""
        with self._db.transaction():
            self._db.write("UPDATE units SET state = ? WHERE unit = ?", ACKED, unit)

    def in_doubt(self) -> tuple[list[int], float]:
        """Return the units of earlier runs that are in doubt, and the seconds since the last of them began."""
        rows = self._db.rows("SELECT unit, at FROM units WHERE state = ?", SENDING)
        return [row[0] for row in rows], time.time() - max((row[1] for row in rows), default=0.0)

    def settled(self, unit: int, there: NDArray[np.int64]) -> None:
        """Store which rows of a unit in doubt Longbow has. The rows that they replace were deleted before.

        Args:
            unit: number of the unit.
            there: ids of the rows that arrived, int64, (n,).
        """
        with self._db.transaction():
            claimed = self._db.numbers("SELECT id FROM documents WHERE unit = ?", unit)
            self.forget(np.setdiff1d(claimed, there))
            rows = int(np.isin(claimed, there).sum())
            self._db.write("UPDATE units SET state = ?, rows = ? WHERE unit = ?", ACKED, rows, unit)
        self._open.discard(unit)

    @property
    def acked_rows(self) -> int:
        """Number of rows that were acknowledged in all runs, including those that were replaced or removed later."""
        return self._db.number("SELECT sum(rows) FROM units WHERE state = 2")

    def close(self) -> None:
        """Close the file."""
        self._db.close()
