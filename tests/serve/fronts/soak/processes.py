"""Processes of a running server, and what they hold: descriptors, memory, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

__all__ = ["Held", "Processes", "run_server"]

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Held:
    """What a server holds.

    Attributes:
        descriptors: open descriptors by process.
        memory: proportional set size by process, in bytes.
        shared: names in /dev/shm, semaphores aside, which belong to other programs.
        files: names in the folder of the sockets.
    """

    descriptors: dict[str, int]
    memory: dict[str, int]
    shared: frozenset[str]
    files: frozenset[str]


class Processes:
    """The command's process and its children.

    Attributes:
        supervisor: the command's process.
        http, flight: addresses.
        log: file of the log.
    """

    def __init__(self, supervisor: subprocess.Popen[str], addresses: dict[str, Any], folder: Path, log: Path) -> None:
        self.supervisor = supervisor
        self.http: str = addresses["http"]
        self.flight: str = addresses["flight"]
        self.log = log
        self._folder = folder
        self._seen: dict[int, psutil.Process] = {}

    @property
    def port(self) -> int:
        """Port of HTTP."""
        return int(self.http.rpartition(":")[2])

    def children(self, role: str) -> list[int]:
        """Return the numbers of the processes of a role."""
        found = []
        for child in psutil.Process(self.supervisor.pid).children(recursive=True):
            try:
                words = child.cmdline()
            except psutil.Error:
                continue
            self._seen.setdefault(child.pid, child)
            if len(words) > 2 and words[-2] == role and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
        return sorted(found)

    def orphans(self) -> list[int]:
        """Return the processes that were ever seen and still run."""
        return [pid for pid, child in self._seen.items() if child.is_running()]

    def names(self) -> dict[str, int]:
        """Return the numbers of the processes by role and place."""
        names = {"supervisor": self.supervisor.pid}
        for role in ("engine", "front"):
            names |= {f"{role} {place}": pid for place, pid in enumerate(self.children(role))}
        return names

    def held(self) -> Held:
        """Return what the server holds now."""
        names = self.names()
        folders = list(self._folder.glob("fletcher-*"))
        return Held(
            {name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in names.items()},
            {name: memory_of(pid) for name, pid in names.items()},
            frozenset(path.name for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.")),
            frozenset(path.name for folder in folders for path in folder.iterdir()),
        )

    def errors(self) -> list[dict[str, Any]]:
        """Return the log's lines of the level error."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["level"] == "error"]


def memory_of(pid: int) -> int:
    """Return the proportional set size of a process in bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024


@contextmanager
def run_server(artifact: Path, folder: Path, *options: str) -> Iterator[Processes]:
    """Run the command; afterwards it has ended.

    Args:
        artifact: folder of the artifact, which is served as `tiny`.
        folder: short folder for temporary files.
        options: further options.
    """
    command = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "--json", "run"]
    command += [str(artifact), "--name", "tiny", "--provider", "mlas", "--http", "127.0.0.1:0"]
    command += ["--flight", "127.0.0.1:0", "--drain-seconds", "10", "--admin", "on", "--models-root", "/", *options]
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "TMPDIR": str(folder)}
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()[-2000:]
            yield Processes(process, json.loads(line), folder, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(SECONDS)
            if process.stdout is not None:
                process.stdout.close()


def wait_until(condition: Any, seconds: float = SECONDS) -> float:
    """Wait for a condition; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"the condition did not hold within {seconds:g} s"
        time.sleep(0.05)
    return time.monotonic() - began
