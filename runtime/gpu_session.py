"""A variant on every GPU that this process may use: one session whose batches go where they end first and fit there."""

from __future__ import annotations

from functools import partial

from .artifact import Artifact
from .canary import Canary, read_canary, require_session
from .cuda import SLOTS, open_cuda
from .device_memory import MemoryGuard
from .device_metrics import DeviceMetric
from .errors import ProviderError
from .fleet import Device, Fleet
from .gpus import Gpu, memory_info, this_gpus
from .manifest import Variant
from .memory_estimate import MemoryEstimate
from .session import Session

__all__ = ["open_gpus"]


def open_gpus(artifact: Artifact, variant: Variant) -> Fleet:
    """Opens a variant of the target `cuda` on all GPUs.

    Args:
        artifact: where the graph lies.
        variant: which graph.

    Raises:
        ProviderError: there is no GPU, or the graph does not run on one of them.
        As `cuda.open_cuda` otherwise.
    """
    system = this_gpus()
    if system.problem is not None:
        raise ProviderError(f"the provider cuda cannot be used here: {system.problem}")
    canary = read_canary(artifact.canary_file)
    devices: list[Device] = []
    try:
        for gpu in system.gpus:
            devices.append(_device(artifact, variant, gpu))
    except BaseException:
        for device in devices:
            device.session.close()
        raise
    return Fleet(devices, check=partial(_check, artifact, variant, canary))


def _device(artifact: Artifact, variant: Variant, gpu: Gpu) -> Device:
    name = f"cuda:{gpu.index}"
    free_before = memory_info(gpu.index)[0]
    if variant.memory is None:  # a traced graph: nobody knows what its batches need
        return Device(
            name,
            open_cuda(artifact, variant, gpu),
            SLOTS,
            gpu.processors,
            open=partial(open_cuda, artifact, variant, gpu),
            memory=partial(_taken, gpu.index, free_before),
        )
    estimate = MemoryEstimate(variant.memory.on("cuda"))
    open_guarded = partial(_open_guarded, artifact, variant, gpu, estimate)
    metrics: list[DeviceMetric] = estimate.metrics(name)
    return Device(
        name,
        open_guarded(),
        SLOTS,
        gpu.processors,
        open=open_guarded,
        memory=partial(_taken, gpu.index, free_before),
        metrics=metrics,
    )


def _open_guarded(artifact: Artifact, variant: Variant, gpu: Gpu, estimate: MemoryEstimate) -> Session:
    return MemoryGuard(open_cuda(artifact, variant, gpu), estimate, partial(memory_info, gpu.index))


def _taken(index: int, free_before: int) -> float:
    """Bytes that the GPU has less than before the session was opened."""
    return float(max(free_before - memory_info(index)[0], 0))


def _check(artifact: Artifact, variant: Variant, canary: Canary, session: Session) -> None:
    require_session(session, canary, artifact.manifest.card.output, variant.tolerance)
