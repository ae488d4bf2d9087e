"""Inspection of a cluster's nodes before traffic: versions, artifacts, files and ports. `inspect_node` runs on each node."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from fletcher import __version__
from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.errors import FletcherError, InputError
from fletcher.runtime.machine.gpus import memory_info, this_gpus
from fletcher.runtime.remote.locate import locate

from ..access.addresses import HostPort, bind

__all__ = ["NodeReport", "Questions", "inspect_node", "pinned_digests", "refuse_differences"]

#: Packages whose versions must be the same everywhere, because they decide vectors or the protocol between the nodes.
SAME: Final = ("ray", "longbow-fletcher", "onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow")


class Questions(msgspec.Struct, frozen=True):
    """Artifacts, files and ports to look for on a node.

    Attributes:
        artifacts: folder or URL of each artifact, and the digest that it must have or None.
        files: files that must be readable.
        ports: ports that must be free.
        host: address of the ports.
        folder: folder to make, which only the user of the processes can enter; empty for none.
    """

    artifacts: tuple[tuple[str, str | None], ...] = ()
    files: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    host: str = "127.0.0.1"
    folder: str = ""


class NodeReport(msgspec.Struct, frozen=True):
    """Versions, artifacts and problems of a node.

    Attributes:
        name: name of the machine.
        versions: version of Python, and of each installed package of `SAME`.
        digests: digest of each artifact that can be opened.
        gpu_memory: bytes of the smallest GPU; 0 without GPUs.
        problems: reasons why the node cannot be used.
    """

    name: str
    versions: dict[str, str]
    digests: dict[str, str] = {}
    gpu_memory: int = 0
    problems: tuple[str, ...] = ()


def inspect_node(questions: bytes) -> bytes:
    """Return the `NodeReport` of this machine as JSON.

    Args:
        questions: `Questions` as JSON.
    """
    asked = decode_json(questions, Questions)
    digests: dict[str, str] = {}
    problems: list[str] = []
    for path, digest in dict(asked.artifacts).items():
        if path.endswith(".json"):
            continue  # an alias names another artifact from time to time
        try:
            with locate(path, digest=digest) as located:
                from fletcher.runtime import Artifact

                digests[path] = Artifact.open(located.folder).digest
        except (FletcherError, OSError) as error:
            problems.append(str(error))
        else:
            if digest is not None and digests[path] != digest.removeprefix("sha256:"):
                problems.append(f"{path} has the digest {digests[path]}, and {digest} is required")
    for file in asked.files:
        if not os.access(file, os.R_OK):
            problems.append(f"{file} cannot be read")
    for port in asked.ports:
        try:
            bind(HostPort(asked.host, port), f"port {port}").close()
        except FletcherError as error:
            problems.append(str(error))
    if asked.folder:
        try:
            _private(Path(asked.folder))
        except OSError as error:
            problems.append(f"{asked.folder} cannot be used for HAProxy's files: {error}")
    gpus = this_gpus().gpus
    memory = min((memory_info(gpu.index)[1] for gpu in gpus), default=0)
    return msgspec.json.encode(NodeReport(platform.node(), _versions(), digests, memory, tuple(problems)))


def _private(folder: Path) -> None:
    """Make a folder that only this user can enter.

    Raises:
        OSError: it cannot be made, or another user has made it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    folder.chmod(0o700)


def _versions() -> dict[str, str]:
    found = {"Python": ".".join(map(str, sys.version_info[:3])), "Fletcher": __version__}
    for name in SAME:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def refuse_differences(reports: Sequence[NodeReport], own: Mapping[str, str] | None = None) -> None:
    """Refuse nodes that cannot be used, or that differ from each other or from this machine.

    Args:
        reports: report of each node.
        own: versions of this machine. Default: they are read.

    Raises:
        InputError: there is a problem; the message names every node that has one.
    """
    own = _versions() if own is None else own
    problems = [f"{report.name}: {problem}" for report in reports for problem in report.problems]
    for report in reports:
        for name, version in report.versions.items():
            mine = own.get(name)
            # The release of Python within a minor version changes nothing that is sent.
            if mine is not None and _series(name, mine) != _series(name, version):
                problems.append(
                    f"{report.name} has {name} {version}, and this machine {mine}: install the same version"
                )
        problems += [
            f"{report.name} has no {name}, and this machine has {own[name]}"
            for name in own
            if name not in report.versions and name != "onnxruntime-gpu" and name != "onnxruntime"
        ]
    paths = dict.fromkeys(path for report in reports for path in report.digests)
    for path in paths:
        found = {report.digests[path]: report.name for report in reversed(reports) if path in report.digests}
        if len(found) > 1:
            words = ", ".join(f"{name} has {digest}" for digest, name in found.items())
            problems.append(f"the nodes have different artifacts under {path}: {words}")
    if problems:
        raise InputError("the cluster cannot be used: " + "; ".join(problems))


def _series(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "Python" else version


def pinned_digests(reports: Sequence[NodeReport]) -> dict[str, str]:
    """Return the digest of each artifact, which is the same on all nodes."""
    digests: dict[str, Any] = {}
    for report in reports:
        digests |= report.digests
    return digests
