"""Server in a separate process, for the benchmarks: start, measurement from outside, and stop."""

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
    """`Running`: a server that listens.

    Attributes:
        process: the server's process.
        http: its HTTP URL, or empty.
        flight: its Flight URL, or empty.
        log: file of its log, lines of JSON.
    """

    process: subprocess.Popen[str]
    http: str
    flight: str
    log: Path

    @property
    def port(self) -> int:
        """Port of HTTP on the loopback."""
        return int(self.http.rpartition(":")[2])

    def rss(self) -> float:
        """Return the resident memory in MB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def cpu_seconds(self) -> float:
        """Return user and system time of all threads."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self, seconds: float = 60.0) -> int:
        """Stop the server, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def serving(artifact: str, *options: str) -> Iterator[Running]:
    """Start a server of an artifact on free ports, without a cache of vectors; the name of the model is `bench`."""
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
            try:
                self.megabytes.append(self.running.rss())
            except psutil.NoSuchProcess:
                return

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
