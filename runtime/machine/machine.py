"""`Machine`: processor, cores, NUMA nodes and memory that this process may use."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Machine", "read_list", "read_machine", "this_machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """Resources that this process may use.

    Attributes:
        processor: its model name.
        instructions: the instruction sets' names, as Linux gives them.
        processors: the logical processors that this process may run on, at least one.
        numa_nodes: the same, by NUMA node; one node if the system does not say it.
        memory: bytes, the smaller of what is built in and what the control group allows.
    """

    processor: str
    instructions: frozenset[str]
    processors: tuple[int, ...]
    numa_nodes: tuple[tuple[int, ...], ...]
    memory: int

    @property
    def key(self) -> str:
        """Hex digest of what a measurement of speed depends on, as far as the machine goes."""
        parts = [self.processor, *sorted(self.instructions), str(len(self.processors))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@cache
def this_machine() -> Machine:
    """Return this machine, read once: neither it nor what this process may use of it changes while it runs."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    if platform.system() == "Darwin":
        return _darwin(tuple(affinity))
    return read_machine(Path("/"), tuple(affinity))


def read_machine(root: Path, affinity: tuple[int, ...]) -> Machine:
    """Read a machine from Linux' `/proc` and `/sys`.

    Args:
        root: where they lie.
        affinity: the processors that this process may run on.
    """
    name, instructions = _read_cpuinfo(_text(root / "proc/cpuinfo"))
    # A quota of 1.5 processors' time would make two threads wait for each other: it is rounded down.
    count = max(int(min(len(affinity), _quota(root))), 1)
    processors = affinity[:count]
    nodes = tuple(
        node
        for folder in sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
        if (node := tuple(cpu for cpu in read_list(_text(folder / "cpulist")) if cpu in processors))
    )
    return Machine(name or platform.machine(), instructions, processors, nodes or (processors,), _memory(root))


def _darwin(affinity: tuple[int, ...]) -> Machine:
    def ask(key: str) -> str:
        return subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False).stdout

    features = ask("machdep.cpu.features").lower().split()
    if (
        platform.machine() == "arm64"
    ):  # which has no list of that name; Linux' names for what it always and sometimes has
        features.append("asimd")
        features += ["asimddp"] if ask("hw.optional.arm.FEAT_DotProd").strip() == "1" else []
    return Machine(
        ask("machdep.cpu.brand_string").strip() or platform.machine(),
        frozenset(features),
        affinity,
        (affinity,),
        int(ask("hw.memsize") or 0),
    )


def _read_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return model name and instruction sets of the first processor: x86 calls them flags, ARM Features."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or fields.get("CPU part") or "", frozenset(flags.split())


def _quota(root: Path) -> float:
    """Return the number of processors whose time the control groups allow."""
    quotas = [float("inf")]
    for group in _groups(root, "cpu"):
        parts = _text(group / "cpu.max").split()  # version 2: "max 100000" or "150000 100000"
        if not parts:
            parts = [_text(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
            quotas.append(int(parts[0]) / int(parts[1]))
    return min(quotas)


def _memory(root: Path) -> int:
    lines = _text(root / "proc/meminfo").splitlines()
    limits = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (text := _text(group / name).strip()).isdigit():
                limits.append(int(text))
    return min(limits, default=0)


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of the control groups that limit this process: its own and all above it, of both versions.

    A container sees its own group as the root. A service of systemd does not: its limits lie in a folder of its own, or in
    its slice's.
    """
    second = root / "sys/fs/cgroup"
    first = second / controller
    groups = [second, first]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        group = first if controllers else second
        for name in path.strip("/").split("/"):
            group /= name
            groups.append(group)
    return groups


def read_list(text: str) -> list[int]:
    """Return the numbers of a list as Linux writes it: `0-3,8` is 0, 1, 2, 3 and 8."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _text(file: Path) -> str:
    """Return the text of a file of the system, empty if it does not exist."""
    try:
        return file.read_text()
    except OSError:
        return ""
