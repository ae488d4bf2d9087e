"""Description of a machine, read from copies of Linux' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.runtime.machine.machine import Machine, read_container_limit, read_machine, this_machine

X86 = "processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu avx2 avx512_bf16 avx512_vnni\n\nprocessor\t: 1\nflags\t: other\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd40\n"
FOUR = (0, 1, 2, 3)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_an_x86_machine_of_two_nodes(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": X86,
            "proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\n",
            "sys/devices/system/node/node0/cpulist": "0-1,8-9\n",
            "sys/devices/system/node/node1/cpulist": "2-3\n",
        },
    )
    machine = read_machine(root, FOUR)
    assert machine.processor == "EPYC"
    assert machine.instructions == {"fpu", "avx2", "avx512_bf16", "avx512_vnni"}
    assert machine.processors == FOUR
    assert machine.numa_nodes == ((0, 1), (2, 3))
    assert machine.memory == 16384 * 1024


def test_an_arm_machine_names_its_features(tmp_path: Path) -> None:
    machine = read_machine(write(tmp_path, {"proc/cpuinfo": ARM}), (5,))
    assert "bf16" in machine.instructions
    assert machine.numa_nodes == ((5,),)


def test_the_control_groups_limits_count(tmp_path: Path) -> None:
    second = {"sys/fs/cgroup/cpu.max": "250000 100000\n", "sys/fs/cgroup/memory.max": "1048576\n"}
    meminfo = {"proc/meminfo": "MemTotal: 4096 kB\n"}
    machine = read_machine(write(tmp_path / "2", meminfo | second), FOUR)
    assert (machine.processors, machine.memory) == ((0, 1), 1 << 20)
    first = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
    assert read_machine(write(tmp_path / "1", first), FOUR).processors == (0,)
    free = {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}
    machine = read_machine(write(tmp_path / "free", meminfo | free), FOUR)
    assert (machine.processors, machine.memory) == (FOUR, 4096 * 1024)


def test_a_service_is_limited_by_its_group_and_its_slices(tmp_path: Path) -> None:
    """CPUQuota= and MemoryMax= of systemd set the limits of a service's group, not those of the root group."""
    second = {
        "proc/meminfo": "MemTotal: 4096 kB\n",
        "proc/self/cgroup": "0::/some.slice/one.service\n",
        "sys/fs/cgroup/some.slice/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/some.slice/memory.max": "max\n",
        "sys/fs/cgroup/some.slice/one.service/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/some.slice/one.service/memory.max": "1048576\n",
        "sys/fs/cgroup/some.slice/two.service/memory.max": "1\n",
    }
    machine = read_machine(write(tmp_path / "2", second), FOUR)
    assert (machine.processors, machine.memory) == ((0,), 1 << 20)
    first = {
        "proc/meminfo": "MemTotal: 4096 kB\n",
        "proc/self/cgroup": "5:memory:/jobs/one\n4:cpu,cpuacct:/jobs\n1:name=systemd:/\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes": "2097152\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us": "100000\n",
    }
    machine = read_machine(write(tmp_path / "1", first), FOUR)
    assert (machine.processors, machine.memory) == ((0, 1), 2 << 20)


def test_the_key_changes_with_the_properties_that_affect_speed() -> None:
    machine = Machine("a", frozenset({"avx2"}), (0, 1), ((0, 1),), 1)
    others = [
        Machine("b", frozenset({"avx2"}), (0, 1), ((0, 1),), 1),
        Machine("a", frozenset({"avx512f"}), (0, 1), ((0, 1),), 1),
        Machine("a", frozenset({"avx2"}), (0,), ((0,),), 1),
    ]
    assert len({machine.key, *(other.key for other in others)}) == 4
    assert machine.key == Machine("a", frozenset({"avx2"}), (0, 1), ((0, 1),), 2).key


def test_this_machine_has_a_processor_and_memory() -> None:
    machine = this_machine()
    assert machine.processors
    assert machine.memory > 1 << 28
    assert {cpu for node in machine.numa_nodes for cpu in node} == set(machine.processors)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sys/fs/cgroup/memory.max": "1048576\n"}, 1 << 20),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "2097152\n"}, 1 << 21),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),  # version 1 without a limit
        ({}, None),
    ],
)
def test_a_container_limits_the_memory(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    for name, text in ({"proc/meminfo": "MemTotal: 8388608 kB\n"} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_container_limit(tmp_path) == limit
