"""`Provider`: description of one execution provider, as one object.

Each folder beside this file defines its providers in `provider.py`, and registry.py lists them. Other code uses the object
and does not compare names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..artifact.folder import Artifact
from ..artifact.manifest import Target, Variant
from ..artifact.memory_shape import MemoryFactors, MemoryShape
from ..machine.machine import Machine
from ..session.session import Session
from .worker_layout import WorkerLayout

__all__ = ["DeviceKind", "MemoryUse", "Needs", "OpenOptions", "Provider", "Tuning", "only_itself"]

#: Device that computes: the processor, NVIDIA GPUs, or the device that CoreML chooses on an Apple machine.
DeviceKind = Literal["cpu", "nvidia", "apple"]

#: Bytes on the host for a batch that another device computes: its ids, six integers per token and five per place of the
#: rectangle, and the data that these are made from.
HOST_SHAPE = MemoryShape(token=64, cell=40, square=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """`Needs`: requirements of a provider.

    Attributes:
        package: module that must be importable.
        oldest: oldest version of the module that works, as numbers.
        extra: extra of Fletcher that installs the module.
        distribution: name of the distribution that installs the module, if it differs from the module's name.
        problem: returns the reason why another requirement is missing on a machine, or None.
    """

    package: str
    oldest: tuple[int, ...]
    extra: str
    distribution: str | None = None
    problem: Callable[[Machine], str | None] | None = None

    @property
    def source(self) -> str:
        """Name of the distribution for pip."""
        return self.distribution or self.package


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """`MemoryUse`: memory of the process that the batches of a provider need.

    Attributes:
        factors: multiples of the memory that the graph needs on MLAS; None if another device computes and the host has only
            the inputs.
        kept: bytes of compiled kernels that the provider keeps for each worker.
        shared: whether the memory of a batch is reused by the next batch on any worker, as in ONNX Runtime's arena.
    """

    factors: MemoryFactors | None
    kept: int = 0
    shared: bool = True

    def shape_of(self, variant: Variant) -> MemoryShape | None:
        """Return the memory of batches of a variant in this process, or None if the variant does not define it."""
        if self.factors is None:
            return HOST_SHAPE
        return None if variant.memory is None else variant.memory.scaled(self.factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """`Tuning`: layouts that are worth measuring.

    Attributes:
        shapes: returns the layouts for a machine as (workers, threads per worker), the default first.
        token_budget: tokens that a batch should hold without a measurement.
        at_load: whether a load may measure; False if opening a session takes too long.
    """

    shapes: Callable[[Machine], Sequence[tuple[int, int]]]
    token_budget: int
    at_load: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """`OpenOptions`: options for opening a session.

    Attributes:
        threads: processor threads inside one run.
        workers: number of runs that may be in progress at once.
        allow_fallback: whether another provider of the same device may run the graph; `Session.fallback` has the reason.
    """

    threads: int = 1
    workers: int = 1
    allow_fallback: bool = False


def only_itself(artifact: Artifact, variant: Variant) -> tuple[Variant, ...]:
    """Return only the given variant: a session runs one graph on most providers."""
    return (variant,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """`Provider`: an execution provider.

    Attributes:
        name: name in options, measurements and code, for example `openvino`.
        title: name in sessions, metrics and reports, for example `OpenVINO CPU f32`.
        targets: targets whose graphs the provider runs.
        device_kind: device that computes.
        needs: requirements.
        open: opens a session of a variant for one of the targets. The machine must meet the requirements.
        memory: memory of the process that batches need.
        tuning: layouts that are worth measuring.
        precision: precision that replaces the precision of the graph; None keeps that of the graph.
        engines: distributions whose versions affect the speed.
        preferred: precisions that are tried first if the caller requests none.
        variants: returns all variants that the session of one variant runs.
        inspect: opens a graph, given as bytes and the folder of its weights, so that all its values can be read. None if the
            values of ONNX Runtime's CPU provider are the same.
    """

    name: str
    title: str
    targets: tuple[Target, ...]
    device_kind: DeviceKind
    needs: Needs
    open: Callable[[Artifact, Variant, OpenOptions], Session]
    memory: MemoryUse
    tuning: Tuning
    precision: str | None = None
    engines: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()
    variants: Callable[[Artifact, Variant], tuple[Variant, ...]] = only_itself
    inspect: Callable[[bytes, Path], Any] | None = None

    def layouts(self, machine: Machine) -> list[WorkerLayout]:
        """Return the layouts that are worth measuring on a machine, the default first."""
        budget = self.tuning.token_budget
        return [WorkerLayout(self.name, workers, threads, budget) for workers, threads in self.tuning.shapes(machine)]

    def default_layout(self, machine: Machine) -> WorkerLayout:
        """Return the layout that is used without a measurement."""
        return self.layouts(machine)[0]
