"""`cluster_of` and `Node`: a cluster of Ray whose second node has an address, a name and mounts of its own, on this machine.

The second node is a process namespace of Linux (`unshare`), joined by a virtual network cable. It can be killed as a machine
that loses its power, and may see other files under the same paths. Root is needed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from .command import free_ports

__all__ = ["Head", "Node", "head", "second"]

NAME = "node-b"

#: Seconds for the start of a node on a busy machine.
SECONDS = 180.0

START = ["start", "--disable-usage-stats", "--object-store-memory", str(128 << 20), "--block"]


@dataclass(frozen=True, slots=True)
class Head:
    """The first node: its address for Ray, its own address, that of a second node, and a folder for logs."""

    address: str
    ip: str
    second_ip: str
    folder: Path


def call(*words: str) -> None:
    """Run a command."""
    subprocess.run(words, check=True, capture_output=True, timeout=30)


@contextmanager
def head(folder: Path, cpus: int) -> Iterator[Head]:
    """Run the head of a cluster in the namespaces of this process, and end it.

    Args:
        folder: folder for logs.
        cpus: cores that Ray may use.
    """
    tools = [shutil.which(tool) for tool in ("ip", "unshare", "nsenter")]
    if os.geteuid() != 0 or not all(tools):
        pytest.skip("a second node needs root, ip, unshare and nsenter")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    subnet = f"10.203.{os.getpid() % 250}"
    (port,) = free_ports(1)
    found = Head(f"{subnet}.1:{port}", f"{subnet}.1", f"{subnet}.2", folder)
    try:
        call("ip", "address", "add", f"{found.ip}/32", "dev", "lo")
    except subprocess.CalledProcessError:
        pytest.skip("this machine does not let a test add an address")
    # Without the node, its address must not lead to the network.
    call("ip", "route", "add", "unreachable", f"{found.second_ip}/32", "metric", "9999")
    words = ["--head", "--port", str(port), "--node-ip-address", found.ip, "--num-cpus", str(cpus)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
            with ray(folder / "head.txt", [], [*words, "--include-dashboard", "false"]):
                yield found
    finally:
        call("ip", "route", "del", "unreachable", f"{found.second_ip}/32", "metric", "9999")
        call("ip", "address", "del", f"{found.ip}/32", "dev", "lo")


@contextmanager
def ray(log: Path, inside: list[str], words: list[str]) -> Iterator[None]:
    """Run `ray start` until the end of the context, and then end its processes. Both nodes need the cluster's token.

    Args:
        log: file for its output.
        inside: command that enters a namespace, or nothing.
        words: its options.
    """
    program = str(Path(sys.executable).parent / "ray")
    with log.open("w") as stream:
        environment = {**os.environ, "RAY_AUTH_MODE": "token"}
        process = subprocess.Popen([*inside, program, *START, *words], stdout=stream, stderr=stream, env=environment)
    deadline = time.monotonic() + SECONDS
    try:
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for one in left:
            if one.is_running():
                one.kill()
        psutil.wait_procs(left, timeout=30)


class Node:
    """The second node, which runs until the end of the context or `die`."""

    def __init__(self, holder: subprocess.Popen[bytes], first: int) -> None:
        self._holder = holder
        self.inside = ["nsenter", "--target", str(first), "--all"]

    def call(self, *words: str) -> None:
        """Run a command on the node."""
        call(*self.inside, *words)

    def show(self, files: Path, at: Path) -> None:
        """Let the node see another file or folder under a path."""
        self.call("mount", "--bind", str(files), str(at))

    def hide(self, at: Path) -> None:
        """Undo `show`."""
        self.call("umount", str(at))

    def die(self) -> None:
        """Kill all processes of the node at once."""
        self._holder.kill()  # --kill-child ends the first process of the namespace, and the kernel all others
        self._holder.wait()


@contextmanager
def second(head: Head, cpus: int, own: tuple[Path, ...] = ()) -> Iterator[Node]:
    """Run a second node of a cluster.

    Args:
        head: the first node.
        cpus: cores that Ray may use.
        own: folders of temporary files that it does not share with the first node, beside Ray's.
    """
    spaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    holder = subprocess.Popen(["unshare", *spaces, "sleep", "infinity"])
    here, there = f"ft{os.getpid() % 10_000}a", f"ft{os.getpid() % 10_000}b"
    try:
        deadline = time.monotonic() + 30
        while not (children := psutil.Process(holder.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        node = Node(holder, children[0].pid)
        call("ip", "link", "add", here, "type", "veth", "peer", "name", there)
        call("ip", "link", "set", there, "netns", str(children[0].pid))
        call("ip", "link", "set", here, "up")
        call("ip", "route", "add", f"{head.second_ip}/32", "dev", here, "src", head.ip)
        node.call("hostname", NAME)
        node.call("ip", "link", "set", "lo", "up")
        node.call("ip", "address", "add", f"{head.second_ip}/32", "dev", there)
        node.call("ip", "link", "set", there, "up")
        node.call("ip", "route", "add", f"{head.ip}/32", "dev", there)
        for folder in (Path("/tmp/ray"), *own):
            folder.mkdir(exist_ok=True)
            node.call("mount", "-t", "tmpfs", "none", str(folder))
        words = ["--address", head.address, "--node-ip-address", head.second_ip, "--num-cpus", str(cpus)]
        with ray(head.folder / "second.txt", node.inside, words):
            yield node
    finally:
        holder.kill()
        holder.wait()
        subprocess.run(["ip", "link", "del", here], capture_output=True, check=False)  # it ends with the namespace
