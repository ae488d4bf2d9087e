"""Instances whose compute is simulated, and HAProxy in front of instances, for the benchmarks of this folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serve.running import cpu_seconds, read_stat

from fletcher.serve.cluster.config import Balancer, Cluster, Instance, Pool
from fletcher.serve.cluster.haproxy import haproxy_config
from fletcher.serve.cluster.rules import STATE

#: Name of the model of the simulated instances.
MODEL = "bench"


@dataclass(frozen=True, slots=True)
class Balanced:
    """`Balanced`: HAProxy that runs.

    Attributes:
        port: its port of HTTP on the loopback.
        pid: its process.
    """

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Return user and system time of HAProxy."""
        return cpu_seconds(read_stat(Path(f"/proc/{self.pid}"))[1])


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def haproxy(ports: Mapping[str, int], **options: object) -> Iterator[Balanced]:
    """Run HAProxy in front of instances on the loopback. It is ready when one of them is.

    Args:
        ports: port of HTTP of each instance, by name.
        options: options of `[balancer]`.

    Raises:
        RuntimeError: HAProxy is not installed, or did not start.
    """
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if program is None:
        raise RuntimeError("haproxy is not installed: apt-get install haproxy")
    port = free_port()
    instances = tuple(Instance(name=name, http=f"127.0.0.1:{at}") for name, at in ports.items())
    balancer = Balancer(http=f"127.0.0.1:{port}", max_connections=2000, **options)  # type: ignore[arg-type]
    cluster = Cluster(pools=(Pool(name="pool", models=(MODEL,), instances=instances),), balancer=balancer)
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "haproxy.cfg", Path(folder) / "log"
        file.write_text(haproxy_config(cluster))
        with log.open("wb") as stream:
            process = subprocess.Popen([program, "-db", "-f", str(file)], stdout=stream, stderr=stream)
        try:
            end = time.monotonic() + 20
            while not answers(f"http://127.0.0.1:{port}{STATE}"):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"HAProxy did not start: {log.read_text()}")
                time.sleep(0.02)
            yield Balanced(port, process.pid)
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    """Report whether a URL answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


@dataclass
class Simulated:
    """`Simulated`: an instance in a process of its own, which computes a text in a fixed time.

    Attributes:
        artifact: folder of a small artifact.
        port: its port of HTTP.
        seconds: simulated seconds of compute for a text, on each of two workers.
    """

    artifact: str
    port: int
    seconds: float
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [sys.executable, "-m", "benchmarks.cluster.simulated", self.artifact]
        command += [str(self.port), str(self.seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RuntimeError("an instance did not start")

    def kill(self) -> None:
        """Kill it without notice."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def simulated(artifact: str, count: int, seconds: float) -> Iterator[list[Simulated]]:
    """Run instances until the block ends."""
    instances = [Simulated(artifact, free_port(), seconds) for _ in range(count)]
    try:
        for each in instances:
            each.start()
        yield instances
    finally:
        for each in instances:
            each.kill()


def load(port: int, connections: int, requests: int) -> dict[str, float]:
    """Send requests of one short text from another process, and return their number, seconds and latencies."""
    script = Path(__file__).parents[1] / "serve" / "load.py"
    body = json.dumps({"model": MODEL, "input": "a text of ########", "encoding_format": "base64"})
    command = [sys.executable, str(script), str(port), "--body", body]
    command += ["--connections", str(connections), "--requests", str(requests)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found
