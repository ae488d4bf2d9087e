"""`Machine`: processors, NUMA nodes and memory that this process may use."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Machine", "container_limit", "read_container_limit", "read_list", "read_machine", "this_machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """`Machine`: resources that this process may use.

    Attributes:
        processor: model name of the processor.
        instructions: names of its instruction sets, as Linux writes them.
        processors: logical processors that this process may run on; at least one.
        numa_nodes: the same processors by NUMA node; one node if the system does not report nodes.
        memory: bytes of memory: the installed memory or the limit of the control group, whichever is smaller.
    """

    processor: str
    instructions: frozenset[str]
    processors: tuple[int, ...]
    numa_nodes: tuple[tuple[int, ...], ...]
    memory: int

    @property
    def key(self) -> str:
        """Hex digest of the properties of the machine that affect a measurement of speed."""
        parts = [self.processor, *sorted(self.instructions), str(len(self.processors))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@cache
def this_machine() -> Machine:
    """Return this machine. It is read once, because its resources do not change while the process runs."""
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    if platform.system() == "Darwin":
        return _darwin(tuple(affinity))
    return read_machine(Path("/"), tuple(affinity))


def read_machine(root: Path, affinity: tuple[int, ...]) -> Machine:
    """Read a machine from `/proc` and `/sys` of Linux.

    Args:
        root: folder that contains `proc` and `sys`.
        affinity: logical processors that this process may run on.
    """
    name, instructions = _read_cpuinfo(_text(root / "proc/cpuinfo"))
    # A quota is rounded down: with the time of 1.5 processors, two threads would wait for each other.
    count = max(int(min(len(affinity), _quota(root))), 1)
    processors = affinity[:count]
    nodes = tuple(
        node
        for folder in sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
        if (node := tuple(cpu for cpu in read_list(_text(folder / "cpulist")) if cpu in processors))
    )
    return Machine(name or platform.machine(), instructions, processors, nodes or (processors,), _memory(root))


def _darwin(affinity: tuple[int, ...]) -> Machine:
    def read(key: str) -> str:
        return subprocess.run(["/usr/sbin/sysctl", "-n", key], capture_output=True, text=True, check=False).stdout

    features = read("machdep.cpu.features").lower().split()
    # Apple's ARM processors have no list of features. These are the names that Linux uses.
    if platform.machine() == "arm64":
        features.append("asimd")
        features += ["asimddp"] if read("hw.optional.arm.FEAT_DotProd").strip() == "1" else []
    return Machine(
        read("machdep.cpu.brand_string").strip() or platform.machine(),
        frozenset(features),
        affinity,
        (affinity,),
        int(read("hw.memsize") or 0),
    )


def _read_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return the model name and the instruction sets of the first processor: `flags` on x86, `Features` on ARM."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or fields.get("CPU part") or "", frozenset(flags.split())


def _quota(root: Path) -> float:
    """Return the processor time that the control groups allow, as a number of processors; infinity without a limit."""
    quotas = [float("inf")]
    for group in _groups(root, "cpu"):
        parts = _text(group / "cpu.max").split()  # version 2: "max 100000" or "150000 100000"
        if not parts:
            parts = [_text(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit() and int(parts[1]):
            quotas.append(int(parts[0]) / int(parts[1]))
    return min(quotas)


def _memory(root: Path) -> int:
    """Return the bytes of memory that this process may use, or 0 if they are not known."""
    return min([*_installed(root), *_group_limits(root)], default=0)


@cache
def container_limit() -> int | None:
    """Return the bytes of memory that the control groups of this process allow; None if they do not limit it."""
    return None if platform.system() == "Darwin" else read_container_limit(Path("/"))


def read_container_limit(root: Path) -> int | None:
    """Read the memory limit of the control groups, of version 2 or 1.

    Args:
        root: folder that contains `proc` and `sys`.

    Returns:
        The smallest limit in bytes; None if there is none below the installed memory.
    """
    limit = min(_group_limits(root), default=None)
    # Version 1 writes a number of 63 bits for no limit.
    return None if limit is None or limit >= min(_installed(root), default=0) else limit


def _installed(root: Path) -> list[int]:
    lines = _text(root / "proc/meminfo").splitlines()
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]


def _group_limits(root: Path) -> list[int]:
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_text(group / name).strip() for group in _groups(root, "memory") for name in names]
    return [int(text) for text in texts if text.isdigit()]


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of the control groups that limit this process: its group and all groups above it, of both versions.

    A container sees its group as the root. A systemd service does not: its limits are in the folder of the service or of the
    slice.
    """
    version_2 = root / "sys/fs/cgroup"
    version_1 = version_2 / controller
    groups = [version_2, version_1]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        group = version_1 if controllers else version_2
        for name in path.strip("/").split("/"):
            group /= name
            groups.append(group)
    return groups


def read_list(text: str) -> list[int]:
    """Return the numbers of a list in the format of Linux: `0-3,8` is 0, 1, 2, 3 and 8."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _text(file: Path) -> str:
    """Return the text of a system file, or an empty text if the file cannot be read."""
    try:
        return file.read_text()
    except OSError:
        return ""
