"""`open_run`: the folder of a training, which is a new one or that of the same training, interrupted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fletcher.quantize.resumption import Run, resumed_state
from fletcher.runtime.artifact.durable import new_file

__all__ = ["RunFolder", "make_key", "open_run"]

#: File of a training's key.
STATE = "tune.json"

TRAINING = Run(
    "training",
    "of another checkpoint, of other data or with other options, which cannot be continued with these",
    "another -o",
)


class _State(msgspec.Struct, forbid_unknown_fields=True):
    key: str


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`RunFolder`: folders of a training.

    Attributes:
        path: the folder itself.
    """

    path: Path

    @property
    def base(self) -> Path:
        """Artifact of the checkpoint before the training."""
        return self.path / "base"

    @property
    def training(self) -> Path:
        """Checkpoints of the training, from which it continues."""
        return self.path / "training"

    @property
    def checkpoint(self) -> Path:
        """The tuned checkpoint."""
        return self.path / "checkpoint"

    def artifact(self, graph: str, *, base: bool = False) -> Path:
        """Return the folder of an artifact: `float32`, the name of a recipe, or a recipe of the model before the training."""
        return self.path / (f"base-{graph}" if base else graph)


def make_key(parts: object) -> str:
    """Return a hash of everything that a training depends on."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def open_run(folder: Path, key: str) -> RunFolder:
    """Open the folder of a training.

    Without a step that was computed, the key of the folder may be another one: the user mended an option after an error.

    Args:
        folder: a new or empty folder, or that of an interrupted or finished training with the same key.
        key: hash of everything that the training depends on.

    Raises:
        InputError: the folder has something else, or a training with another key.
    """
    file, run = folder / STATE, RunFolder(folder)
    if resumed_state(file, _State, key, TRAINING, begun=any(run.training.glob("*"))) is None:
        with new_file(file) as stream:
            stream.write(msgspec.json.encode(_State(key)))
    return run
