"""`Faults`: the library that makes the n-th call about a folder's files fail, for a process that was started with it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

__all__ = ["KINDS", "Faults", "Kind", "build", "environment"]

Kind = Literal["eio", "enospc", "short", "eintr", "hang"]

#: Numbers of the kinds in `faults.c`.
KINDS: Final[dict[Kind, int]] = {"eio": 1, "enospc": 2, "short": 3, "eintr": 4, "hang": 5}

SOURCE = Path(__file__).with_name("faults.c")


def build(folder: Path) -> Path | None:
    """Compile the library into a folder; return its path, or None where it cannot be made: it is for glibc on Linux."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "faults.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"], check=True
    )
    return library


def environment(library: Path) -> dict[str, str]:
    """Return the environment of a process with the library."""
    root = SOURCE.parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root)])
    return os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": paths, "FAULTS": str(library)}


class Faults:
    """The library in this process."""

    def __init__(self, root: Path) -> None:
        """Take the library.

        Args:
            root: folder whose files it watches.
        """
        self._library = ctypes.CDLL(os.environ["FAULTS"])
        self._library.faults_disarm.restype = self._library.faults_failed.restype = ctypes.c_long
        self._library.faults_arm.argtypes = [ctypes.c_int, ctypes.c_long]
        self._library.faults_root(os.fsencode(root))

    def arm(self, kind: Kind, number: int) -> None:
        """Let a call fail from now on.

        Args:
            kind: kind of the failure.
            number: number of the call among those that can fail in this way, from 1; 0 lets none fail.
        """
        self._library.faults_arm(KINDS[kind], number)

    def disarm(self) -> int:
        """Let no more calls fail; return the number of calls that could have failed."""
        count: int = self._library.faults_disarm()
        return count

    @property
    def failed(self) -> bool:
        """Whether the call has failed since `arm`."""
        return bool(self._library.faults_failed())

    def release(self) -> None:
        """Let the call that hangs go on."""
        self._library.faults_release()

    def record(self, descriptor: int) -> None:
        """Write each call that changes files to a descriptor; -1 ends that."""
        self._library.faults_record(descriptor)
