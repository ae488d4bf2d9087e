"""A cluster of Ray on this machine with one deployment, in processes of its own, for the benchmarks of this folder."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serve.running import end_processes, process_tree

#: The command of `fletcher-serve`.
COMMAND = [sys.executable, "-c", "from fletcher.serve.commands.cli import main; main()"]

#: Seconds in which a cluster and its replicas must start.
START_SECONDS = 400.0

FILE = """
[ray]
address = "local"
port = {port}
metrics_port = {metrics}
stats_port = {stats}
fallback_port = {fallback}
replica_ports = "{first}-{last}"
leave_seconds = 1

[[ray.deployments]]
name = "bench"
min_replicas = {replicas}
max_replicas = {replicas}
cpus = {cpus}

[ray.deployments.server]
drain_seconds = 5.0

[[ray.deployments.models]]
path = "{artifact}"
name = "bench"
workers = {workers}
provider = "{provider}"
cache = 0
"""


@dataclass(frozen=True, slots=True)
class Deployed:
    """`Deployed`: a deployment that answers.

    Attributes:
        port: port of HAProxy on the loopback.
        pid: process of the command, whose descendants are the cluster.
        ports: first and last port of the replicas.
    """

    port: int
    pid: int
    ports: tuple[int, int]

    def cpu_seconds(self) -> float:
        """Return user and system time of all processes of the cluster, HAProxy's and the controller's among them."""
        return sum(use.cpu_seconds for use in process_tree(self.pid).values())

    def replicas(self) -> list[int]:
        """Return the processes of the replicas."""
        return [pid for pid, use in process_tree(self.pid).items() if use.command.startswith("ray::ServeReplica")]


def free_ports(count: int) -> list[int]:
    """Return consecutive ports that are free now and that the system gives to no client."""
    for first in range(20_000, 32_000 - count, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", port))
        except OSError:
            continue
        return list(range(first, first + count))
    raise RuntimeError("there are no free ports")


@contextmanager
def deployed(artifact: str, *, replicas: int, cpus: float, provider: str, workers: int) -> Iterator[Deployed]:
    """Run a cluster with one deployment, and end its processes at the end.

    Args:
        artifact: folder of the artifact.
        replicas: number of replicas.
        cpus: cores of a replica, for Ray's placement.
        provider: execution provider.
        workers: workers of the model.

    Raises:
        RuntimeError: it does not start.
    """
    ports = free_ports(40)
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "cluster.toml", Path(folder) / "log"
        file.write_text(
            FILE.format(
                port=ports[0],
                metrics=ports[1],
                stats=ports[2],
                first=ports[3],
                last=ports[-2],
                fallback=ports[-1],
                artifact=Path(artifact).absolute(),
                replicas=replicas,
                cpus=cpus,
                provider=provider,
                workers=workers,
            )
        )
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*COMMAND, "cluster", "serve", str(file), "--json"], stdout=stream, stderr=stream
            )
        try:
            end = time.monotonic() + START_SECONDS
            while '"replicas"' not in log.read_text():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the cluster did not start: {log.read_text()}")
                time.sleep(0.1)
            yield Deployed(ports[0], process.pid, (ports[3], ports[-2]))
        finally:
            tree = process_tree(process.pid)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            end_processes(tree)
