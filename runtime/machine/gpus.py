"""NVIDIA GPUs of this machine, or the reason why none can be used. Nothing is loaded onto them for it."""

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

#: What onnxruntime-gpu on PyPI is built for since 1.27.
CUDA_NEEDED = (13, 0)

VISIBLE = "CUDA_VISIBLE_DEVICES"

#: Batches under way at once on a GPU: while one computes, another one's inputs are made and copied, and a third one's vectors
#: leave.
SLOTS = 3


@dataclass(frozen=True, slots=True)
class Gpu:
    """GPU that this process may use.

    Attributes:
        index: as CUDA numbers it in this process.
        name: what NVIDIA calls it.
        memory: bytes, in all.
        capability: compute capability, (9, 0) for Hopper.
        pci: its address on the bus.
        processors: logical processors on its side of the machine that this process may use; empty if unknown.
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
    """Answer of the driver.

    Attributes:
        gpus: those that this process may use.
        driver: its version, or empty.
        cuda: the newest CUDA that it knows; (0, 0) without a driver.
        problem: why there are no GPUs to be used, or None.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: tuple[int, int] = (0, 0)
    problem: str | None = None


@cache
def this_gpus() -> GpuSystem:
    """Return the driver's answer; it is asked once."""
    try:
        driver = load_driver()
    except ProviderError as error:
        return GpuSystem(driver=_driver_version(Path("/")), problem=_explain(str(error), os.environ))
    return read_gpus(driver, Path("/"), this_machine(), os.environ)


def read_gpus(driver: CudaDriver, root: Path, machine: Machine, environment: Mapping[str, str]) -> GpuSystem:
    """Return a driver's answer.

    Args:
        driver: which one.
        root: where `/proc` and `/sys` lie.
        machine: whose processors.
        environment: variables of the process.
    """
    version, cuda = _driver_version(root), driver.cuda_version()
    if cuda < CUDA_NEEDED:
        return GpuSystem(
            driver=version,
            cuda=cuda,
            problem=f"the NVIDIA driver {version} knows CUDA up to {_dotted(cuda)}, and onnxruntime-gpu needs "
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
    """Return the bytes of a GPU that are free now, and all.

    Raises:
        ProviderError: the driver does not answer.
    """
    return load_driver().memory_info(index)


def _explain(problem: str, environment: Mapping[str, str]) -> str:
    visible = environment.get(VISIBLE)
    if visible is None:
        return problem
    return (
        f"{problem}; {VISIBLE} is {visible!r}, which hides the others" if visible else f"{VISIBLE} is empty: {problem}"
    )


def _driver_version(root: Path) -> str:
    try:
        return (root / "sys/module/nvidia/version").read_text().strip()
    except OSError:
        return ""


def _processors(root: Path, pci: str, machine: Machine) -> tuple[int, ...]:
    """Return the processors near a GPU, of those that this process may use; none on a machine of one node."""
    if len(machine.numa_nodes) < 2:
        return ()
    try:
        near = read_list((root / "sys/bus/pci/devices" / pci / "local_cpulist").read_text())
    except OSError:
        return ()
    return tuple(processor for processor in near if processor in machine.processors)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
