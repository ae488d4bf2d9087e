"""`cluster embed` and `cluster serve` on a real cluster of two nodes: progress, a node that dies, nodes that differ."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pyarrow.flight as fl
import pytest

pytest.importorskip("ray")

from fletcher.convert.export.export import export
from fletcher.runtime import Artifact

from ..conftest import TEXTS
from .command import PROGRAM, free_ports, run_command, started
from .jobs import OPTIONS, ROWS, check_output, nodes_of, result_of, wait_until, write_source
from .load import Load
from .nodes import NAME, Head, Node, head, second

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

#: Seconds after which all requests are answered again when a node has died.
BACK_SECONDS = 60.0

#: Program that listens on a port.
LISTEN = """
import socket, time
with socket.create_server(("0.0.0.0", {port})):
    print(1, flush=True)
    time.sleep(600)
"""

FILE = """
[ray]
address = "{address}"
host = "0.0.0.0"
port = {ports[0]}
metrics_port = {ports[1]}
stats_port = {ports[2]}
fallback_port = {ports[3]}
replica_ports = "{ports[4]}-{ports[39]}"
leave_seconds = 1

[[ray.deployments]]
name = "plain"
min_replicas = 2
max_replicas = 2
cpus = 1
flight = "{ports[40]}"

[ray.deployments.server]
allow_anonymous = true
drain_seconds = 5.0

[[ray.deployments.models]]
path = "{artifact}"
name = "tiny"
provider = "mlas"
cache = 0
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with head(tmp_path_factory.mktemp("nodes"), cpus=2) as found:
        yield found


def words_of(first: Head, artifact: Path, folder: Path) -> list[str]:
    """Return the command of a job."""
    return ["cluster", "embed", str(artifact), str(folder / "in"), str(folder / "out"), "--address", first.address]


def write_file(first: Head, artifact: Path, folder: Path, ports: list[int]) -> None:
    text = FILE.format(address=first.address, ports=ports, artifact=artifact)
    (folder / "cluster.toml").write_text(text)


def test_a_node_that_dies_loses_and_doubles_nothing(
    first: Head, tiny_artifact: Path, tiny_vectors: Any, tmp_path: Path
) -> None:
    write_source(str(tmp_path / "in"))
    words = [*words_of(first, tiny_artifact, tmp_path), *OPTIONS, "--engines", "2"]
    journal = str(tmp_path / "out" / "_fletcher")
    with second(first, cpus=1) as node, started(words, tmp_path) as command:
        wait_until(lambda: nodes_of(journal) == {platform.node(), NAME}, command)
        for name in (NAME, platform.node()):
            command.wait_for(f"{name} ")  # the progress has the rows of each node
        node.die()
        assert command.process.wait(400) == 0, command.errors.read_text()
    result = result_of(command.out.read_text())
    assert set(result["rows_by_node"]) == {platform.node(), NAME}
    assert sum(result["rows_by_node"].values()) == result["rows"] == ROWS
    check_output(str(tmp_path / "out"), tiny_vectors)


def refused(first: Head, artifact: Path, folder: Path) -> str:
    """Return the message with which a job is refused before anything is written."""
    done = run_command(*words_of(first, artifact, folder), *OPTIONS, folder=folder)
    assert done.returncode == 1, done.stdout
    assert not (folder / "out").exists()
    return done.stderr


@contextmanager
def shown(node: Node, files: Path, at: Path) -> Iterator[None]:
    node.show(files, at)
    try:
        yield
    finally:
        node.hide(at)


def test_nodes_that_differ_are_named_before_the_work(
    first: Head, tiny_checkpoint: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    write_source(str(tmp_path / "in"))
    other, here = tmp_path / "other", Artifact.open(tiny_artifact).digest
    export(str(tiny_checkpoint), other, max_tokens=16)
    there = Artifact.open(other).digest
    empty = tmp_path / "empty"
    empty.mkdir()
    ports = free_ports(41)
    write_file(first, tiny_artifact, tmp_path, ports)
    with second(first, cpus=1) as node:
        with shown(node, other, tiny_artifact):
            message = refused(first, tiny_artifact, tmp_path)
            assert f"the nodes have different artifacts under {tiny_artifact}" in message
            assert f"{NAME} has {there}" in message
            assert f"{platform.node()} has {here}" in message
            served = run_command("cluster", "serve", "cluster.toml", folder=tmp_path)
            assert served.returncode == 1
            assert f"{NAME} has {there}" in served.stderr
        with shown(node, empty, tiny_artifact):
            message = refused(first, tiny_artifact, tmp_path)
            assert f"{NAME}: " in message and str(tiny_artifact) in message
        distribution = importlib.metadata.distribution("numpy")
        metadata = Path(str(distribution._path)) / "METADATA"  # type: ignore[attr-defined]
        changed = tmp_path / "METADATA"
        changed.write_text(metadata.read_text().replace(f"Version: {distribution.version}", "Version: 1.99.0", 1))
        with shown(node, changed, metadata):
            message = refused(first, tiny_artifact, tmp_path)
            assert f"{NAME} has numpy 1.99.0, and this machine {distribution.version}" in message
        with listening(node, ports[0]):
            served = run_command("cluster", "serve", "cluster.toml", folder=tmp_path)
        assert served.returncode == 1
        assert f"{NAME}: " in served.stderr and f"port {ports[0]}" in served.stderr


@contextmanager
def listening(node: Node, port: int) -> Iterator[None]:
    """Let a program of the node listen on a port."""
    words = [*node.inside, sys.executable, "-c", LISTEN.format(port=port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout is not None and listener.stdout.readline()
            yield
        finally:
            listener.kill()


def test_another_release_of_ray_is_named(first: Head, tiny_artifact: Path, tmp_path: Path) -> None:
    import ray

    version = Path(ray.__file__).parent / "_version.py"
    (tmp_path / "version.py").write_text(version.read_text().replace(ray.__version__, "2.60.99"))
    words = words_of(first, tiny_artifact, tmp_path)
    enter = f'mount --bind {tmp_path}/version.py {version} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", enter, "sh", sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert "it runs another version of Ray or Python" in done.stderr
    assert ray.__version__ in done.stderr and "2.60.99" in done.stderr


def test_a_local_cluster_does_not_join_another_one(first: Head, tiny_artifact: Path, tmp_path: Path) -> None:
    write_source(str(tmp_path / "in"))
    words = words_of(first, tiny_artifact, tmp_path)[:-1]
    done = run_command(*words, "local", *OPTIONS, "--engines", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert result_of(done.stdout)["rows"] == ROWS


def test_replicas_on_two_nodes_answer_and_outlive_one(
    first: Head, tiny_artifact: Path, tiny_vectors: Any, tmp_path: Path
) -> None:
    ports = free_ports(41)
    write_file(first, tiny_artifact, tmp_path, ports)
    own = Path(f"/tmp/fletcher-ray-0-{ports[0]}")
    urls = [f"http://{ip}:{ports[0]}" for ip in (first.ip, first.second_ip)]
    with second(first, cpus=1, own=(own,)) as node:
        done = run_command("cluster", "serve", "cluster.toml", "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        (deployed,) = json.loads(done.stdout)
        assert {urlsplit(url).hostname for url in deployed["instances"]} == {first.ip, first.second_ip}
        for url in [*urls, *deployed["instances"]]:
            answer = httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": TEXTS}, timeout=60)
            assert answer.status_code == 200, answer.text
            made = np.array([row["embedding"] for row in answer.json()["data"]])
            np.testing.assert_allclose(made, tiny_vectors, atol=1e-5)
        flights = [f"grpc://{ip}:{ports[40]}" for ip in (first.ip, first.second_ip)]
        assert sorted(deployed["flight"]) == sorted(flights)
        for url in flights:
            with fl.FlightClient(url) as client:
                table = client.do_get(fl.Ticket(json.dumps({"texts": TEXTS}).encode())).read_all()
            np.testing.assert_allclose(np.array(table["vector"].to_pylist()), tiny_vectors, atol=1e-5)
        with Load(urls[0]) as load:
            time.sleep(3)
            node.die()
            died = time.monotonic()
            time.sleep(BACK_SECONDS)
        after = [status for at, status in load.statuses if at > died + BACK_SECONDS / 2]
        assert len(after) > 0 and set(after) == {200}, load.counts
        assert set(load.counts) <= {200, 0, 500, 502, 503, 504}
        failed = sum(count for status, count in load.counts.items() if status != 200)
        assert failed <= max(0.005 * len(load.statuses), 8), load.counts  # each of the four clients may meet it twice
        again = run_command("cluster", "serve", "cluster.toml", "--json", folder=tmp_path)
        assert again.returncode == 0, again.stderr
        (deployed,) = json.loads(again.stdout)
        assert deployed["replicas"] == 2
        assert {urlsplit(url).hostname for url in deployed["instances"]} == {first.ip}
    removed = run_command("cluster", "serve", "cluster.toml", "--remove", folder=tmp_path)
    assert removed.returncode == 0, removed.stderr
    shutil.rmtree(own, ignore_errors=True)
