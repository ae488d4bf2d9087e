"""`SweepState`: the results of a sweep so far, in a file, so that an interrupted sweep can be resumed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fletcher.runtime.artifact.durable import new_file

from ..resumption import Run, resumed_state
from ..sensitivity import Sensitivity
from .results import Candidate

__all__ = ["STATE", "WORK", "StateFile", "SweepState", "open_state"]

#: In the folder of a sweep: the file of its state, and the folder of the artifact that is being measured.
STATE, WORK = "sweep.json", "work"

SWEEP = Run(
    "sweep",
    "of another artifact, of other texts, or of another machine, whose results cannot be compared with these",
    "another folder",
)


class SweepState(msgspec.Struct, forbid_unknown_fields=True):
    """`SweepState`: the results of a sweep so far.

    Attributes:
        key: hash of everything that a measurement depends on.
        parent: figures of float32.
        candidates: results of the recipes; `points` in the file.
        sensitivity: damage of each matrix.
        seconds: time of all runs.
        tie_seconds: time of further rounds between recipes of overlapping speeds.
    """

    key: str
    parent: Candidate | None = None
    candidates: list[Candidate] = msgspec.field(name="points", default_factory=list)
    sensitivity: Sensitivity | None = None
    seconds: float = 0.0
    tie_seconds: float = 0.0


class StateFile:
    """`StateFile`: the file of a sweep's state, and the clock of the runs."""

    def __init__(self, path: Path, state: SweepState) -> None:
        self.state = state
        self._path = path
        self._seconds_before = state.seconds
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Time of this run, seconds."""
        return time.monotonic() - self._started

    @property
    def total(self) -> float:
        """Time of all runs, seconds."""
        return self._seconds_before + self.elapsed

    def save(self) -> None:
        """Write the state. An interrupted write leaves the old file."""
        self.state.seconds = self.total
        with new_file(self._path) as stream:
            stream.write(msgspec.json.encode(self.state))


@contextmanager
def open_state(folder: Path, key: str) -> Iterator[StateFile]:
    """Open the state of a new sweep or of an interrupted one.

    Args:
        folder: folder of the sweep; it is created if it does not exist.
        key: hash of everything that a measurement depends on.

    Raises:
        InputError: the folder is not a sweep, or is a sweep with another key.
    """
    path = folder / STATE
    state = resumed_state(path, SweepState, key, SWEEP) or SweepState(key)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    file = StateFile(path, state)
    file.save()
    yield file
    file.save()
