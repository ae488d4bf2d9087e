"""`open_run`: the folder of a training, which is a new one or that of the same training, interrupted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.artifact.durable import new_file
from fletcher.runtime.errors import InputError

__all__ = ["RunFolder", "make_key", "open_run"]

#: File of a training's key.
STATE = "tune.json"


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

    Args:
        folder: a new or empty folder, or that of an interrupted or finished training with the same key.
        key: hash of everything that the training depends on.

    Raises:
        InputError: the folder has something else, or a training with another key.
    """
    file = folder / STATE
    if file.is_file():
        try:
            state = decode_json(file.read_bytes(), _State)
        except msgspec.DecodeError as error:
            raise InputError(f"{file} is not a training of this version: {error}. Choose another folder") from error
        if state.key != key:
            raise InputError(
                f"{folder} has a training of another checkpoint, of other data or with other options, and cannot be "
                "continued with these: choose another -o, or remove this folder"
            )
        return RunFolder(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and has no training: choose another -o")
    with new_file(file) as stream:
        stream.write(msgspec.json.encode(_State(key)))
    return RunFolder(folder)
