"""`resumed_state`: the state that an interrupted run left in its folder, if the folder is that of the same run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import InputError

__all__ = ["Resumable", "Run", "resumed_state"]


class Resumable(Protocol):
    """`Resumable`: a state with a hash of everything that the run depends on."""

    key: str


State = TypeVar("State", bound=Resumable)


@dataclass(frozen=True, slots=True)
class Run:
    """`Run`: a kind of run, for messages.

    Attributes:
        name: the kind, such as `sweep`.
        other: why a run with another key cannot be continued.
        option: what the user chooses instead, such as `another -o`.
    """

    name: str
    other: str
    option: str


def resumed_state(path: Path, kind: type[State], key: str, run: Run, *, begun: bool = True) -> State | None:
    """Return the state in a run's folder, or None if the folder is empty, does not exist, or has nothing to continue.

    Args:
        path: file of the state, in the run's folder.
        kind: class of the state.
        key: hash of everything that the run depends on.
        run: words for messages.
        begun: whether the folder has results. Without any, the state may have another key: that run ended with an error.

    Raises:
        InputError: the folder has something else, or a run with another key or of another version.
    """
    folder = path.parent
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and has no {run.name}: choose {run.option}")
        return None
    try:
        state = decode_json(path.read_bytes(), kind)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a {run.name} of this version: {error}. Choose {run.option}") from error
    if state.key != key and not begun:
        return None
    if state.key != key:
        raise InputError(f"{folder} has a {run.name} {run.other}: choose {run.option}, or remove this folder")
    return state
