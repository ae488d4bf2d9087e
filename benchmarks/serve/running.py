"""A server in a process of its own, for the benchmarks here: started, watched from outside, stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

COMMAND = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()", "run"]


@dataclass
class Running:
    """A server that listens.

    Attributes:
        process: its process.
        http: its URL, or empty.
        flight: its URL, or empty.
        log: where its log goes: lines of JSON.
    """

    process: subprocess.Popen[str]
    http: str
    flight: str
    log: Path

    @property
    def port(self) -> int:
        """Of HTTP, on the loopback."""
        return int(self.http.rpartition(":")[2])

    def rss(self) -> float:
        """Resident memory in MB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def cpu_seconds(self) -> float:
        """User and system time of all its threads."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self, seconds: float = 60.0) -> int:
        """Asks it to stop and gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def log_lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def serving(artifact: str, *options: str) -> Iterator[Running]:
    """A server of an artifact on free ports, with no cache of vectors; the model is called `bench`."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [*COMMAND, artifact, "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--name", "bench"]
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*command, "--cache", "0", "--json", *options], stdout=subprocess.PIPE, stderr=stream, text=True
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
            urls = json.loads(line)
            running = Running(process, urls.get("http") or "", urls.get("flight") or "", log)
            yield running
            running.stop()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


@dataclass
class MemoryWatch:
    """Resident memory of a server while the block runs, twice a second.

    Attributes:
        megabytes: what was seen, in order.
    """

    running: Running
    megabytes: list[float] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(0.5):
            try:
                self.megabytes.append(self.running.rss())
            except psutil.NoSuchProcess:
                return

    def growth(self) -> float:
        """Share by which the last quarter's highest is above the second quarter's: the first one warms up."""
        quarter = len(self.megabytes) // 4
        if not quarter:
            return 0.0
        return max(self.megabytes[-quarter:]) / max(self.megabytes[quarter : 2 * quarter]) - 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies; 0 where there is none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
