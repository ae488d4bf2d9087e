"""A variant on every GPU that this process may use: one session whose batches go where they end first and fit there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..canary import Canary, read_canary, require_session
from ..errors import ProviderError
from ..machine.gpus import SLOTS, Gpu, memory_info, this_gpus
from ..memory.estimate import MemoryEstimate
from ..memory.guard import MemoryGuard
from ..providers.cuda.session import CudaSession, open_cuda
from ..providers.tensorrt.rtx import open_tensorrt_rtx
from ..providers.tensorrt.session import open_tensorrt
from ..session.session import Session
from .fleet import Device, Fleet

__all__ = ["open_gpus"]

#: Opens a variant on one GPU.
Open = Callable[[Gpu], Session]


def open_gpus(artifact: Artifact, variant: Variant, *, provider: str = "cuda", allow_cuda: bool = False) -> Fleet:
    """Opens a variant on all GPUs.

    Args:
        artifact: where the graph lies.
        variant: which graph.
        provider: `cuda`, `tensorrt` or `tensorrt-rtx`.
        allow_cuda: whether the CUDA provider may run a graph that TensorRT cannot; `Fleet.fallback` says why.

    Raises:
        ProviderError: there is no GPU, or the graph does not run on one of them.
        As `cuda.open_cuda` and `tensorrt.open_tensorrt` otherwise.
    """
    system = this_gpus()
    if system.problem is not None:
        raise ProviderError(f"the provider {provider} cannot be used here: {system.problem}")
    openers: dict[str, Open] = {
        "cuda": partial(open_cuda, artifact, variant),
        "tensorrt": partial(open_tensorrt, artifact, variant, allow_cuda=allow_cuda),
        "tensorrt-rtx": partial(open_tensorrt_rtx, artifact, variant),
    }
    devices: list[Device] = []
    try:
        for gpu in system.gpus:
            devices.append(_device(variant, gpu, openers[provider]))
    except BaseException:
        for device in devices:
            device.session.close()
        raise
    check = partial(_check, artifact, variant, read_canary(artifact.canary_file))
    reasons = (getattr(device.session, "fallback", None) for device in devices)
    return Fleet(devices, check=check, fallback=next((reason for reason in reasons if reason), None))


def _device(variant: Variant, gpu: Gpu, open_session: Open) -> Device:
    """One GPU. Batches of CUDA graphs are fitted into its memory; an engine of TensorRT takes its own when it is loaded."""
    name = f"cuda:{gpu.index}"
    free_before = memory_info(gpu.index)[0]
    estimate = None if variant.target != "cuda" or variant.memory is None else MemoryEstimate(variant.memory.on("cuda"))

    def open_one() -> Session:
        session = open_session(gpu)
        if estimate is None:
            return session
        held = session.is_held if isinstance(session, CudaSession) else None
        return MemoryGuard(session, estimate, partial(memory_info, gpu.index), is_held=held)

    return Device(
        name,
        open_one(),
        SLOTS,
        gpu.processors,
        open=open_one,
        memory=lambda: float(max(free_before - memory_info(gpu.index)[0], 0)),
        metrics=[] if estimate is None else estimate.metrics(name),
    )


def _check(artifact: Artifact, variant: Variant, canary: Canary, session: Session) -> None:
    require_session(session, canary, artifact.manifest.card.output, variant.tolerance)
