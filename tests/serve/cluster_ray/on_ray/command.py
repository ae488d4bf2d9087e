"""`Command`: a run of `fletcher-serve cluster …` in a process of its own, whose output a test can wait for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Command", "free_ports", "run_command", "started"]

PROGRAM = "import sys; from fletcher.serve.commands.cli import main; main()"

#: Seconds for the start of a cluster, Ray Serve and replicas on a busy machine.
SECONDS = 500.0


def free_ports(count: int) -> list[int]:
    """Return ports that are free now and below those that the system gives to clients."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as listener:
            try:
                listener.bind(("0.0.0.0", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


def run_command(*words: str, folder: Path, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=folder, capture_output=True, text=True, timeout=seconds
    )


class Command:
    """A running command; its standard output and error go to files."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        self.out, self.errors = folder / "out.txt", folder / "errors.txt"
        with self.out.open("w") as out, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *words], cwd=folder, stdout=out, stderr=errors, start_new_session=True
            )

    def wait_for(self, text: str, count: int = 1, seconds: float = SECONDS) -> str:
        """Wait until the output has a text so many times, and return the output."""
        deadline = time.monotonic() + seconds
        while True:
            written = self.out.read_text() + self.errors.read_text()
            if written.count(text) >= count:
                return written
            assert self.process.poll() is None, written
            assert time.monotonic() < deadline, written
            time.sleep(0.1)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@contextmanager
def started(words: Sequence[str], folder: Path) -> Iterator[Command]:
    """Yield a running command, and kill it at the end."""
    command = Command(words, folder)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait(30)
