"""NVIDIA GPUs of this machine, or the reason why they cannot be used. Reading them does not load anything onto a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import ProviderError
from .cuda_driver import CudaDriver, load_driver
from .machine import Machine, read_list, this_machine

__all__ = ["CUDA_NEEDED", "SLOTS", "Gpu", "GpuSystem", "memory_info", "read_gpus", "this_gpus"]

#: CUDA version of the onnxruntime-gpu packages on PyPI, since 1.27.
CUDA_NEEDED = (13, 0)

VISIBLE = "CUDA_VISIBLE_DEVICES"

#: Number of batches in progress on a GPU: one computes, while the inputs of others are prepared and copied, and the vectors
#: of another are copied back. With three, a server of MiniLM on one H200 had 0.95 of this throughput at 256 texts a request.
SLOTS = 4


@dataclass(frozen=True, slots=True)
class Gpu:
    """`Gpu`: GPU that this process may use.

    Attributes:
        index: number of the GPU in this process, as CUDA counts.
        name: product name.
        memory: total memory in bytes.
        capability: compute capability, for example (9, 0) for Hopper.
        pci: PCI address.
        processors: logical processors near the GPU that this process may use; empty if they are not known, or the machine has
            one NUMA node.
    """

    index: int
    name: str
    memory: int
    capability: tuple[int, int]
    pci: str
    processors: tuple[int, ...] = ()

    @property
    def device_name(self) -> str:
        """Name in metrics and reports: `cuda:0`."""
        return f"cuda:{self.index}"


@dataclass(frozen=True, slots=True)
class GpuSystem:
    """`GpuSystem`: GPUs and driver of a machine.

    Attributes:
        gpus: GPUs that this process may use.
        driver: version of the driver; empty if it is not known.
        cuda: newest CUDA version that the driver supports; (0, 0) without a driver.
        problem: reason why no GPU can be used, or None.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: tuple[int, int] = (0, 0)
    problem: str | None = None


@cache
def this_gpus() -> GpuSystem:
    """Return the GPUs and the driver of this machine, read once."""
    try:
        driver = load_driver()
    except ProviderError as error:
        return GpuSystem(driver=_driver_version(Path("/")), problem=_explain(str(error), os.environ))
    return read_gpus(driver, Path("/"), this_machine(), os.environ)


def read_gpus(driver: CudaDriver, root: Path, machine: Machine, environment: Mapping[str, str]) -> GpuSystem:
    """Return the GPUs that a driver reports.

    Args:
        driver: the driver.
        root: folder that contains `proc` and `sys`.
        machine: processors and NUMA nodes that this process may use.
        environment: environment variables of the process.
    """
    version, cuda = _driver_version(root), driver.cuda_version()
    if cuda < CUDA_NEEDED:
        return GpuSystem(
            driver=version,
            cuda=cuda,
            problem=f"the NVIDIA driver {version} supports CUDA up to {_dotted(cuda)}, and onnxruntime-gpu needs "
            f"{_dotted(CUDA_NEEDED)}: update the driver to 580 or newer",
        )
    gpus = tuple(
        Gpu(
            index,
            driver.name(index),
            driver.memory(index),
            driver.capability(index),
            pci := driver.pci(index),
            _processors(root, pci, machine),
        )
        for index in range(driver.count())
    )
    problem = None if gpus else _explain("the NVIDIA driver finds no GPU", environment)
    return GpuSystem(gpus, version, cuda, problem)


def memory_info(index: int) -> tuple[int, int]:
    """Return the free bytes and the total bytes of a GPU.

    Raises:
        ProviderError: the driver does not answer.
    """
    return load_driver().memory_info(index)


def _explain(problem: str, environment: Mapping[str, str]) -> str:
    visible = environment.get(VISIBLE)
    if visible is None:
        return problem
    return (
        f"{problem}; {VISIBLE} is {visible!r}, which hides all other GPUs"
        if visible
        else f"{VISIBLE} is empty: {problem}"
    )


def _driver_version(root: Path) -> str:
    try:
        return (root / "sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""


def _processors(root: Path, pci: str, machine: Machine) -> tuple[int, ...]:
    """Return the processors near a GPU that this process may use; empty on a machine with one NUMA node."""
    if len(machine.numa_nodes) < 2:
        return ()
    try:
        near = read_list((root / "sys/bus/pci/devices" / pci / "local_cpulist").read_text())
    except OSError:
        return ()
    return tuple(processor for processor in near if processor in machine.processors)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
