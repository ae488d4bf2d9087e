"""Calls of the file system that fail: an operation succeeds wholly, or fails by name and leaves nothing half-made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .library import SOURCE, build, environment
from .table import OPERATIONS

#: Operations without a session or a conversion, of which each run takes milliseconds.
QUICK = sorted(OPERATIONS.keys() - {"load", "export"})

#: Largest number of failed calls of each kind in the usual run.
FEW = 5

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs operations in a process with the library."""
    library = build(tmp_path_factory.mktemp("library"))
    if library is None:
        pytest.skip("the library is for Linux with a C compiler")

    def child(source: Path, operations: list[str], *options: str) -> dict[str, Any]:
        root = tmp_path_factory.mktemp("root")
        command = [sys.executable, "-m", "tests.faults.child", str(source), str(root), *operations, *options]
        done = subprocess.run(
            command, env=environment(library), cwd=SOURCE.parents[2], check=True, stdout=subprocess.PIPE
        )
        results: dict[str, Any] = json.loads(done.stdout)
        return results

    return child


def assert_harmless(results: dict[str, Any]) -> None:
    for name, kinds in results.items():
        wrong = [each for result in kinds.values() for each in result["wrong"]]
        assert not wrong, f"{name}:\n" + "\n".join(wrong[:3])
        assert kinds["eio"]["calls"] > 10 and any(kinds["eio"]["errors"]), "the faults do not reach the operation"
        # A short read or write is not an error.
        assert not any(kinds["short"]["errors"])


def test_some_failed_calls(run: Run, tiny_artifact: Path) -> None:
    assert_harmless(run(tiny_artifact, QUICK, "--most", str(FEW)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", QUICK)
def test_every_failed_call(run: Run, tiny_artifact: Path, name: str) -> None:
    assert_harmless(run(tiny_artifact, [name]))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_failed_call_of_a_load(run: Run, tiny_artifact: Path) -> None:
    assert_harmless(run(tiny_artifact, ["load"]))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_failed_call_of_an_export(run: Run, tiny_checkpoint: Path) -> None:
    assert_harmless(run(tiny_checkpoint, ["export"]))
