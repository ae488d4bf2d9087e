"""Server in a separate process, for the benchmarks: start, measurement from outside, and stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: Kernel's clock ticks per second, the unit of CPU time in /proc.
TICKS = os.sysconf("SC_CLK_TCK")

COMMAND = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "run"]


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """`ProcessUse`: use of the machine by one process.

    Attributes:
        parent: id of its parent.
        started: start time in ticks since the machine's start; with the process id it identifies a process.
        cpu_seconds: user and system time of all its threads.
        command: its command line.
    """

    parent: int
    started: int
    cpu_seconds: float
    command: str


def read_stat(folder: Path) -> tuple[str, list[str]]:
    """Return the name and the fields behind it of a process's or a thread's `stat` in /proc.

    Raises:
        OSError: it has ended.
    """
    # The name in parentheses may contain spaces and parentheses.
    head, _, rest = (folder / "stat").read_text().rpartition(")")
    return head.partition("(")[2], rest.split()


def cpu_seconds(fields: Sequence[str]) -> float:
    """Return user and system time of the fields of `read_stat`."""
    return (int(fields[11]) + int(fields[12])) / TICKS


def process_use(pid: int) -> ProcessUse | None:
    """Return the use of a process from /proc, or None if it has ended."""
    try:
        _, fields = read_stat(Path(f"/proc/{pid}"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, IndexError):
        return None
    if fields[0] in "ZX":
        return None
    return ProcessUse(int(fields[1]), int(fields[19]), cpu_seconds(fields), command)


def process_tree(root: int) -> dict[int, ProcessUse]:
    """Return the use of a process and of all its descendants by process id; empty if the process has ended."""
    uses = {int(path.name): process_use(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    children: dict[int, list[int]] = {}
    for pid, use in uses.items():
        if use is not None:
            children.setdefault(use.parent, []).append(pid)
    tree: dict[int, ProcessUse] = {}
    left = [root]
    while left:
        pid = left.pop()
        use = uses.get(pid)
        if use is not None and pid not in tree:
            tree[pid] = use
            left += children.get(pid, [])
    return tree


def memory_mb(pid: int) -> float:
    """Return the memory of a process in MB with shared pages divided among their users (PSS); 0 if it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def end_processes(uses: Mapping[int, ProcessUse]) -> list[str]:
    """Kill the processes that still run, and return their command lines."""
    ended = []
    for pid, use in uses.items():
        now = process_use(pid)
        if now is not None and now.started == use.started:
            ended.append(use.command)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return ended


@dataclass
class Running:
    """`Running`: a server that listens.

    Attributes:
        process: the server's process.
        http: its HTTP URL, or empty.
        flight: its Flight URL, or empty.
        log: file of its log, lines of JSON.
        orphans: command lines of processes that still ran after the stop and were killed.
    """

    process: subprocess.Popen[str]
    http: str
    flight: str
    log: Path
    orphans: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Port of HTTP on the loopback."""
        return int(self.http.rpartition(":")[2])

    def rss(self) -> float:
        """Return the resident memory of all the server's processes in MB; shared pages count in each process."""
        pages = 0
        for pid in process_tree(self.process.pid):
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_seconds(self) -> float:
        """Return user and system time of all the server's processes."""
        return sum(use.cpu_seconds for use in process_tree(self.process.pid).values())

    def stop(self, seconds: float = 60.0) -> int:
        """Stop the server, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def serving(artifact: str, *options: str, start_seconds: float = 300.0) -> Iterator[Running]:
    """Start a server of an artifact on free ports, without a cache of vectors; the name of the model is `bench`.

    Args:
        artifact: folder of the artifact.
        options: more options of `fletcher-serve run`.
        start_seconds: time that the start may take.

    Raises:
        RuntimeError: the server did not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [*COMMAND, artifact, "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--name", "bench"]
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*command, "--cache", "0", "--json", *options], stdout=subprocess.PIPE, stderr=stream, text=True
            )
        tree: dict[int, ProcessUse] = {}
        orphans: list[str] = []
        try:
            assert process.stdout is not None
            timer = threading.Timer(start_seconds, process.kill)
            timer.start()
            try:
                line = process.stdout.readline()
            finally:
                timer.cancel()
            if not line:
                raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
            urls = json.loads(line)
            running = Running(process, urls.get("http") or "", urls.get("flight") or "", log, orphans)
            yield running
            tree = process_tree(process.pid)
            running.stop()
        finally:
            tree |= process_tree(process.pid)
            orphans += end_processes(tree)
            process.wait()


@dataclass
class MemoryWatch:
    """`MemoryWatch`: context manager that samples the resident memory of a server twice per second.

    Attributes:
        megabytes: samples in order.
    """

    running: Running
    megabytes: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(0.5):
            if rss := self.running.rss():
                self.megabytes.append(rss)

    def growth(self) -> float:
        """Return the relative growth of the maximum from the second quarter to the last; the first quarter is warm-up."""
        quarter = len(self.megabytes) // 4
        if not quarter:
            return 0.0
        return max(self.megabytes[-quarter:]) / max(self.megabytes[quarter : 2 * quarter]) - 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the values does not exceed; 0 if there are no values."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
