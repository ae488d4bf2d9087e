"""`Provider`: everything that Fletcher knows of one execution provider, as one object.

Each folder beside this file defines its providers in `provider.py`; registry.py lists them. The rest of Fletcher asks the
object and never compares names.
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

#: Device that computes: the processor, NVIDIA GPUs, or what CoreML chooses on an Apple machine.
DeviceKind = Literal["cpu", "nvidia", "apple"]

#: Bytes that the host keeps of a batch that another device computes: its ids, six integers a token and five a place, and what
#: they are made from.
HOST_SHAPE = MemoryShape(token=64, cell=40, square=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Requirements of a provider.

    Attributes:
        package: module that must be importable.
        oldest: oldest version of it that works, as numbers.
        extra: extra of Fletcher that installs it.
        distribution: name of the package where it is installed from, if that differs from the module's.
        problem: returns why anything else that the provider needs is missing on a machine, or None.
    """

    package: str
    oldest: tuple[int, ...]
    extra: str
    distribution: str | None = None
    problem: Callable[[Machine], str | None] | None = None

    @property
    def source(self) -> str:
        """Name of the package for pip."""
        return self.distribution or self.package


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory of the process that a provider's batches take.

    Attributes:
        factors: multiples of what the graph needs on MLAS; None where another device computes and the host keeps the
            inputs alone.
        kept: bytes of compiled kernels that the provider keeps for each worker.
        shared: whether memory of one batch serves the next one on any worker, as in ONNX Runtime's arena.
    """

    factors: MemoryFactors | None
    kept: int = 0
    shared: bool = True

    def shape_of(self, variant: Variant) -> MemoryShape | None:
        """Return what batches of a variant need in this process, or None where the variant does not say it."""
        if self.factors is None:
            return HOST_SHAPE
        return None if variant.memory is None else variant.memory.scaled(self.factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Layouts that are worth measuring.

    Attributes:
        shapes: returns pairs of workers and threads of each for a machine, the default first.
        token_budget: tokens that a batch should hold where nothing was measured.
        at_load: whether a load may measure; False where opening a session takes longer than a load may.
    """

    shapes: Callable[[Machine], Sequence[tuple[int, int]]]
    token_budget: int
    at_load: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """Options of a session that is opened.

    Attributes:
        threads: processor threads inside one run.
        workers: runs that may be under way at once.
        allow_fallback: whether another provider of the same device may run the graph; `Session.fallback` says why it does.
    """

    threads: int = 1
    workers: int = 1
    allow_fallback: bool = False


def only_itself(artifact: Artifact, variant: Variant) -> tuple[Variant, ...]:
    """Return the variant alone: a session runs one graph on most providers."""
    return (variant,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An execution provider.

    Attributes:
        name: as options, measurements and code write it: `openvino`.
        title: as sessions, metrics and reports write it, for people: `OpenVINO CPU f32`.
        targets: targets whose graphs it runs.
        device_kind: device that computes.
        needs: requirements.
        open: loads a variant that is for one of the targets, on a machine that has what the provider needs.
        memory: memory of the process that batches take.
        tuning: layouts that are worth measuring.
        precision: arithmetic that replaces the graph's own; None keeps that.
        engines: distributions whose versions decide how fast it computes.
        variants: returns all variants that the session of one variant runs.
        inspect: opens a graph, given as bytes with its weights' folder, so that all its values can be read; None where ONNX
            Runtime's CPU provider shows the same.
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
    variants: Callable[[Artifact, Variant], tuple[Variant, ...]] = only_itself
    inspect: Callable[[bytes, Path], Any] | None = None

    def layouts(self, machine: Machine) -> list[WorkerLayout]:
        """Return the layouts that are worth a try on a machine, the default first."""
        budget = self.tuning.token_budget
        return [WorkerLayout(self.name, workers, threads, budget) for workers, threads in self.tuning.shapes(machine)]

    def default_layout(self, machine: Machine) -> WorkerLayout:
        """Return the layout that is taken where nothing was measured."""
        return self.layouts(machine)[0]
