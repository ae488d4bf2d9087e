"""Process of a test: an operation, once for each call that can fail, and the judgment of every state. It prints JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import traceback
from pathlib import Path

from fletcher.runtime.errors import DeadlineError
from fletcher.serve.models.loads import Loads

from .library import Faults, Kind
from .operations import Operation
from .replay import HEAD as MARK
from .table import OPERATIONS

#: Seconds that a load may take whose files do not answer.
LOAD_SECONDS = 2.0


def attempt(operation: Operation, faults: Faults, folder: Path, kind: Kind, number: int) -> tuple[int, str]:
    """Run an operation whose call of a number fails, and judge what it leaves.

    Returns:
        The number of calls that can fail, and the class of the error; empty if the operation succeeded.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    operation.prepare(folder)
    error = ""
    ended = threading.Event()

    def work() -> None:
        try:
            operation.run(folder)
        finally:
            ended.set()

    faults.arm(kind, number)
    try:
        if kind == "hang" and number:
            Loads(LOAD_SECONDS).run(work, lambda _: None, "the operation")
        else:
            operation.run(folder)
    except operation.errors as found:
        error = type(found).__name__
        assert kind != "hang" or isinstance(found, DeadlineError)
    finally:
        count = faults.disarm()
    # A call that hung goes on now. Its thread must not make the next operation's calls.
    assert kind != "hang" or not number or ended.wait(60), "the operation that hung has not ended"
    assert error == "" or faults.failed, f"{error} without a fault"
    assert kind != "hang" or not number or error, "an open that hangs was not noticed"
    operation.judge(folder, succeeded=not error)
    operation.repeat(folder)
    return count, error


def fail_each(operation: Operation, faults: Faults, folder: Path, kinds: list[Kind], most: int) -> dict[str, object]:
    """Run an operation for the calls of each kind.

    Returns:
        By kind the number of calls that can fail, the errors of the operation, and what is wrong.
    """
    results: dict[str, object] = {}
    for kind in kinds:
        total, _ = attempt(operation, faults, folder, kind, 0)
        wrong, errors = [], []
        for number in range(1, total + 1, max(1, -(-total // most))):
            try:
                errors.append(attempt(operation, faults, folder, kind, number)[1])
            except BaseException:  # noqa: BLE001 (the test shows it)
                wrong.append(f"{kind} {number}: {traceback.format_exc()}")
        results[kind] = {"calls": total, "errors": errors, "wrong": wrong}
    return results


def record(operation: Operation, faults: Faults, root: Path, kept: Path) -> None:
    """Run an operation, and record the calls that change files.

    Args:
        operation: the operation.
        faults: the library.
        root: folder of the run.
        kept: folder for the record, and for a copy of the state before it.
    """
    folder = root / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    operation.prepare(folder)
    shutil.copytree(folder, kept / "before")
    with (kept / "record").open("wb") as file:
        faults.record(file.fileno())
        operation.mark = lambda name: os.write(file.fileno(), MARK.pack(b"k", len(name), 0, 0) + name.encode())
        operation.run(folder)
        faults.record(-1)


def main() -> None:
    """Run the operations of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path, help="an artifact, or a checkpoint")
    parser.add_argument("root", type=Path, help="an empty folder")
    parser.add_argument("operations", nargs="+", choices=OPERATIONS)
    parser.add_argument("--most", type=int, default=1 << 30, help="largest number of calls of a kind that fail")
    parser.add_argument("--record", type=Path, help="record the calls that change files there, and let none fail")
    given = parser.parse_args()
    faults = Faults(given.root)
    results = {}
    for name in given.operations:
        operation = OPERATIONS[name](given.source)
        if given.record is None:
            results[name] = fail_each(operation, faults, given.root / "folder", list(operation.kinds), given.most)
        else:
            (given.record / name).mkdir()
            record(operation, faults, given.root, given.record / name)
    sys.stdout.write(json.dumps(results))
    sys.stdout.flush()
    os._exit(0)  # threads whose call hung may be left


if __name__ == "__main__":
    main()
