"""Measured peak memory of a batch, in a separate process whose peak is reset before the batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["grown", "needs_proc"]

needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="reads and resets a process's peak through Linux's /proc"
)

SCRIPT = """
import sys
from pathlib import Path
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.session import MlasSession
def read(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024
session = MlasSession(Path(sys.argv[1]), threads=1)
session.run(Encodings.from_lists([[5, 6]]))
batch = Encodings.from_lists([[5] * int(length) for length in sys.argv[2:]])
before = read("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
session.run(batch)
print(read("VmHWM") - before)
"""


def grown(graph: Path, lengths: Sequence[int]) -> int:
    """Return the largest growth of resident memory in bytes while MLAS runs a batch, after a first run of the model."""
    command = [sys.executable, "-c", SCRIPT, str(graph), *map(str, lengths)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout)
