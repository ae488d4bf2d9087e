"""Crashes in the middle of a write, also with what a power cut may lose: the old state or the new one is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .library import SOURCE, build, environment
from .operations import Operation
from .replay import States, read_record
from .table import OPERATIONS

#: Operations that write.
WRITING = [
    "add-key",
    "first-key",
    "remove-key",
    "new-artifact",
    "replace-artifact",
    "journal",
    "fetch",
    "fetch-again",
    "pull",
    "remember",
    "audit",
    "calibrate",
    "new-file",
    "new-folder",
]

#: Largest number of states after power cuts that the usual run judges.
FEW = 60

Recorded = Callable[[str], tuple[States, Operation]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_artifact: Path) -> Recorded:
    """Run the operations in a process; return a function from a name to the states after crashes in that operation."""
    library = build(tmp_path_factory.mktemp("library"))
    if library is None:
        pytest.skip("the library is for Linux with a C compiler")
    root, kept = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("record")
    command = [sys.executable, "-m", "tests.faults.child", str(tiny_artifact), str(root), *WRITING]
    subprocess.run([*command, "--record", str(kept)], env=environment(library), cwd=SOURCE.parents[2], check=True)

    def find(name: str) -> tuple[States, Operation]:
        states = States(read_record(kept / name / "record"), kept / name / "before", str(root / "folder"))
        return states, OPERATIONS[name](tiny_artifact)

    return find


def judge(states: States, operation: Operation, folder: Path, end: int, **state: object) -> None:
    """Write a state and judge it."""
    marks = [call.path for call in states.calls[:end] if call.kind == "k"]
    operation.done[:] = marks
    try:
        states.write(folder, end, **state)  # type: ignore[arg-type]
        killed = not state
        operation.judge(folder, succeeded=end == len(states.calls), durable=killed or operation.synced)
    except BaseException as error:
        error.add_note(
            f"after call {end} of {len(states.calls)}, {state}: {states.calls[max(end - 6, 0) : end]}"[:2000]
        )
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", WRITING)
def test_a_killed_process_leaves_the_old_state_or_the_new_one(recorded: Recorded, name: str, tmp_path: Path) -> None:
    states, operation = recorded(name)
    assert len(states.calls) >= 5
    for end in range(len(states.calls) + 1):
        judge(states, operation, tmp_path / "state", end)


@pytest.mark.parametrize("name", WRITING)
def test_a_power_cut_leaves_the_old_state_or_the_new_one(recorded: Recorded, name: str, tmp_path: Path) -> None:
    states, operation = recorded(name)
    every = list(states.after_power_cuts())
    for end, fate, lost in every[:: max(1, len(every) // FEW)]:
        judge(states, operation, tmp_path / "state", end, fate=fate, lost=lost)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", WRITING)
def test_every_power_cut_leaves_the_old_state_or_the_new_one(recorded: Recorded, name: str, tmp_path: Path) -> None:
    states, operation = recorded(name)
    for end, fate, lost in states.after_power_cuts():
        judge(states, operation, tmp_path / "state", end, fate=fate, lost=lost)
