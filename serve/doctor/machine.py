"""Checks of the machine: processors, memory, limits of files and connections, clock, user."""

from __future__ import annotations

import datetime
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fletcher.runtime import Artifact
from fletcher.runtime.errors import FletcherError
from fletcher.runtime.machine.machine import read_container_limit
from fletcher.runtime.options.sizes import parse_size

from .finding import Finding, advice, error, fine, warning
from .subject import Subject

__all__ = [
    "check_clock",
    "check_connections",
    "check_files",
    "check_memory",
    "check_packages",
    "check_processors",
    "check_user",
]

#: Smallest limit of open files: a busy server has a connection for each client.
FILES: Final = 4096
#: Connections that may wait to be accepted; the server asks for twice as many.
WAITING: Final = 1024
#: Bytes that a server needs besides weights and caches, and share of the memory that all of it may be.
OWN_BYTES, SHARE = 512 << 20, 0.8
#: A clock before this time is wrong: certificates, tokens and expiry of keys depend on it.
EARLIEST: Final = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()

#: Packages of the extra `http`.
PACKAGES: Final = ("cbor2", "httptools", "orjson", "prometheus_client", "uvicorn", "uvloop", "zstandard")


def check_processors(subject: Subject) -> Iterator[Finding]:
    """Check that there is a processor for each process."""
    count, fronts = len(subject.machine.processors), subject.options.front_count
    quota = subject.read("sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[0]) % int(quota[1]):
        share = int(quota[0]) / int(quota[1])
        yield advice(
            f"the control group allows {share:g} processors, and a part of one is not used",
            f"set the limit to {max(int(share), 1)} or {int(share) + 1} processors",
        )
    if fronts and fronts + 1 > count:
        yield warning(
            f"{fronts} fronts and the engine share {count} processors",
            f"use --fronts {max(count - 1, 0)} or fewer, or give the server {fronts + 1} processors",
        )
    else:
        yield fine(f"{count} processors for {fronts + 1 if fronts else 1} process{'es' if fronts else ''}")


def check_memory(subject: Subject) -> Iterator[Finding]:
    """Compare the weights and caches of the models with the memory."""
    weights = caches = 0
    for spec in subject.specs:
        try:
            files = Artifact.open(Path(spec.path)).manifest.files.values()
        except FletcherError:
            continue  # check_artifacts reports it
        weights += max((info.size for info in files), default=0)  # the weights of the largest precision
        caches += parse_size(spec.cache)
    needed, memory = weights + caches + OWN_BYTES, subject.machine.memory
    text = f"{_mib(needed)} for weights, caches and the process, of {_mib(memory)}"
    if not memory:
        yield advice("the memory of this machine is not known", "compare it with the size of the artifacts")
    elif needed > memory:
        yield error(text, "give the server more memory, serve fewer models, or take a smaller precision")
    elif needed > SHARE * memory:
        yield warning(text, "give the server more memory: batches and answers need some, too")
    else:
        yield fine(text)
    if read_container_limit(subject.root) is None and subject.in_container:
        yield advice("the container has no limit of memory", "set one, so that the server can size its buffers by it")


def check_files(subject: Subject) -> Iterator[Finding]:
    """Check the limit of open files."""
    present, highest = subject.files
    if present < FILES:
        yield warning(
            f"{present} open files are allowed, and each connection needs one",
            f"LimitNOFILE=65536 (systemd), --ulimit nofile=65536 (Docker), or ulimit -n; up to {highest} is allowed here",
        )
    else:
        yield fine(f"{present} open files")


def check_connections(subject: Subject) -> Iterator[Finding]:
    """Check the number of connections that the kernel lets wait."""
    text = subject.read("proc/sys/net/core/somaxconn").strip()
    if text.isdigit() and int(text) < WAITING:
        yield advice(
            f"{text} connections may wait to be accepted, so a burst of new clients is cut off",
            f"sysctl net.core.somaxconn={WAITING * 4}",
        )
    else:
        yield fine(f"{text or 'unknown'} connections may wait to be accepted")


def check_clock(subject: Subject) -> Iterator[Finding]:
    """Check that the clock is right."""
    if time.time() < EARLIEST:
        now = datetime.datetime.now(datetime.UTC)
        yield error(f"the clock says {now:%Y-%m-%d}", "set the clock: certificates and the expiry of keys depend on it")
        return
    synchronized = subject.synchronized()
    if synchronized is False:
        yield warning(
            "nothing synchronizes the clock", "start chrony or systemd-timesyncd on the machine (not in the container)"
        )
    else:
        yield fine("the clock is synchronized" if synchronized else "the state of the clock is not known")


def check_user(subject: Subject) -> Iterator[Finding]:
    """Check that the server does not run as root."""
    if subject.user == 0:
        yield warning(
            "the server runs as root", "run it as a user of its own: User= or DynamicUser= (systemd), runAsUser"
        )
    else:
        yield fine(f"the user {subject.user} without root's rights")


def check_packages(subject: Subject) -> Iterator[Finding]:
    """Check that the packages of the server are installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing and subject.options.http != "off":
        yield error(f"not installed: {', '.join(missing)}", "pip install 'longbow-fletcher[serve]'")
    else:
        yield fine("the packages of the server are installed")


def _mib(size: int) -> str:
    return f"{size >> 20:,} MiB"
