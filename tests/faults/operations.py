"""Operations on files that must succeed wholly, or fail with a named error and leave the old state or the new one."""

from __future__ import annotations

import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.runtime import Encoder, LoadOptions
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Manifest
from fletcher.runtime.artifact.writing import new_artifact, write_manifest
from fletcher.runtime.errors import FletcherError
from fletcher.serve.access.keys_file import add_key, read_keys, remove_key
from fletcher.serve.longbow.journal.journal import Entry, Journal

from .library import Kind

__all__ = [
    "AddKey",
    "CheckArtifact",
    "Export",
    "FirstKey",
    "KeepJournal",
    "LoadModel",
    "NewArtifact",
    "Operation",
    "RemoveKey",
    "ReplaceArtifact",
    "with_license",
]


class Operation(ABC):
    """An operation in a folder. Its methods raise `AssertionError` if a state is wrong.

    Attributes:
        kinds: kinds of failures that it is tried with.
        errors: errors with which it may fail.
        synced: whether a success survives a power cut.
        done: steps that `run` has finished, if it has several.
        mark: called after each step.
    """

    kinds: tuple[Kind, ...] = ("eio", "enospc", "short", "eintr")
    errors: tuple[type[Exception], ...] = (FletcherError,)
    synced = True

    def __init__(self, source: Path) -> None:
        """Prepare.

        Args:
            source: an artifact, which is not in the folder.
        """
        self.source = source
        self.done: list[str] = []
        self.mark: Callable[[str], object] = self.done.append

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make the old state."""

    @abstractmethod
    def run(self, folder: Path) -> None:
        """Run the operation."""

    @abstractmethod
    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        """Check the state.

        Args:
            folder: the folder.
            succeeded: whether `run` succeeded.
            durable: whether the process and the machine have lived on; a crash may lose what no one was promised.
        """

    @abstractmethod
    def repeat(self, folder: Path) -> None:
        """Run the operation without faults, and check that it succeeds."""


class AddKey(Operation):
    """Addition of a key to a file with one."""

    def prepare(self, folder: Path) -> None:
        add_key(folder / "keys.json", "old")

    def run(self, folder: Path) -> None:
        add_key(folder / "keys.json", "new")

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        names = [key.name for key in read_keys(folder / "keys.json")]
        assert names == ["old", "new"] or (names == ["old"] and not (succeeded and durable)), names

    def repeat(self, folder: Path) -> None:
        add_key(folder / "keys.json", "later")
        assert [key.name for key in read_keys(folder / "keys.json")][-1] == "later"


class FirstKey(AddKey):
    """Addition of a key to a file that does not exist."""

    def prepare(self, folder: Path) -> None:
        pass

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        path = folder / "keys.json"
        names = [key.name for key in read_keys(path)] if path.exists() else []
        assert names == ["new"] or (not names and not (succeeded and durable) and not path.exists()), names


class RemoveKey(AddKey):
    """Removal of a key."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        add_key(folder / "keys.json", "gone")

    def run(self, folder: Path) -> None:
        remove_key(folder / "keys.json", "gone")

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        names = [key.name for key in read_keys(folder / "keys.json")]
        assert names == ["old"] or (names == ["old", "gone"] and not (succeeded and durable)), names


def with_license(artifact: Path) -> Manifest:
    """Return the manifest of an artifact with another license."""
    manifest = Artifact.open(artifact).manifest
    return msgspec.structs.replace(manifest, card=msgspec.structs.replace(manifest.card, license="MIT"))


class NewArtifact(Operation):
    """Writing of an artifact where there is none."""

    replaces = False
    errors = (FletcherError, OSError)  # the command prints the system's error with its file

    def prepare(self, folder: Path) -> None:
        pass

    def run(self, folder: Path) -> None:
        with new_artifact(folder / "artifact") as temporary:
            for file in Artifact.open(self.source).manifest.files:
                (temporary / file).write_bytes((self.source / file).read_bytes())
            write_manifest(temporary, with_license(self.source))

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        path = folder / "artifact"
        if not path.exists():
            assert not self.replaces, "the old artifact is gone"
            assert not (succeeded and durable), "the new artifact is gone"
            return
        artifact = Artifact.open(path)
        artifact.check_files()
        new = artifact.manifest.card.license == "MIT"
        assert new or (self.replaces and not (succeeded and durable)), artifact.manifest.card.license

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        assert [each.name for each in folder.iterdir()] == ["artifact"], list(folder.iterdir())
        self.judge(folder, succeeded=True)


class ReplaceArtifact(NewArtifact):
    """Replacement of an artifact."""

    replaces = True

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.source, folder / "artifact")


class CheckArtifact(Operation):
    """Reading of an artifact's manifest, and of all its files."""

    kinds = ("eio", "short", "eintr", "hang")

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.source, folder / "artifact")

    def run(self, folder: Path) -> None:
        Artifact.open(folder / "artifact").check_files()

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        pass  # nothing was written

    def repeat(self, folder: Path) -> None:
        self.run(folder)


class LoadModel(CheckArtifact):
    """Load of a model, which must give the right vectors, or an error."""

    def run(self, folder: Path) -> None:
        with Encoder.load(folder / "artifact", LoadOptions(provider="mlas")) as encoder:
            vectors = encoder.embed(["a text", "another"]).vectors
        assert self._right is None or np.array_equal(vectors, self._right)
        self._right = vectors

    _right: NDArray[np.float32] | None = None


class Export(NewArtifact):
    """Conversion of a checkpoint."""

    replaces = False

    def run(self, folder: Path) -> None:
        from fletcher.convert.export.export import export

        # The checkpoint is in the folder, so that the calls that read it fail, too.
        export(str(folder / "checkpoint"), folder / "artifact")

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.source, folder / "checkpoint")

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        if (folder / "artifact").exists():
            Artifact.open(folder / "artifact").check_files()
        else:
            assert not succeeded

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        assert sorted(each.name for each in folder.iterdir()) == ["artifact", "checkpoint"]
        with Encoder.load(folder / "artifact", LoadOptions(provider="mlas")) as encoder:
            vectors = encoder.embed(["a text"]).vectors
        assert self._right is None or np.array_equal(vectors, self._right)
        self._right = vectors

    _right: NDArray[np.float32] | None = None


class KeepJournal(Operation):
    """Claiming, sending and acknowledgement of documents in an ingest job's journal."""

    errors = (FletcherError, OSError)  # as `Journal` says
    synced = False  # as `Journal` says, too
    ENTRIES = tuple(Entry(bytes([number]) * 16, bytes([number + 100]) * 16) for number in range(6))

    def prepare(self, folder: Path) -> None:
        self._work(folder, self.ENTRIES[:2])
        self.done.clear()

    def run(self, folder: Path) -> None:
        self.done.clear()
        self._work(folder, self.ENTRIES)

    def _work(self, folder: Path, entries: Sequence[Entry]) -> None:
        with Journal(folder / "journal.sqlite", {"model": "a"}) as journal:
            for start in range(0, len(entries), 2):
                claim = journal.claim(entries[start : start + 2])
                self.mark(f"claim {start}")
                if any(verdict.kind == "send" for verdict in claim.verdicts):
                    journal.sending(claim.unit)
                    self.mark(f"sending {start}")
                    journal.acked(claim.unit)
                    self.mark(f"acked {start}")

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        path = folder / "journal.sqlite"
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        with Journal(path, {"model": "a"}) as journal:
            claim = journal.claim(self.ENTRIES, dry=True)
        kinds = [verdict.kind for verdict in claim.verdicts]
        assert kinds[:2] == ["known"] * 2 or not durable, kinds  # those that the preparation had acknowledged
        assert "known" not in kinds[kinds.index("send") :] if "send" in kinds else True, (
            kinds
        )  # a beginning of the commits
        for start in range(0, len(kinds), 2):
            assert kinds[start] == kinds[start + 1], kinds
            if durable and f"acked {start}" in self.done:
                assert kinds[start] == "known", (start, kinds)

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        self.judge(folder, succeeded=True)
