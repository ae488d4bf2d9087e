"""`CUDA`: ONNX Runtime's CUDA provider on all NVIDIA GPUs of the machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...artifact.memory_shape import MemoryFactors
from ...machine.gpus import Gpu, memory_info
from ...session.session import Session
from ..nvidia import NVIDIA_MEMORY, NVIDIA_TUNING, gpu_problem
from ..provider import Needs, OpenOptions, Provider
from . import TITLE

if TYPE_CHECKING:
    from ...fleet.all_gpus import GpuOpener

__all__ = ["CUDA"]

#: First prediction of a batch's memory on the GPU, relative to MLAS; measurements correct it. There is no rectangle before
#: the pooling, and no square of attention scores.
DEVICE_FACTORS = MemoryFactors(1.0, 0.25, 0.0, 1.0)


def _open(artifact: Artifact, variant: Variant, options: OpenOptions) -> Session:
    from ...fleet.all_gpus import open_gpus  # not imported by processes that only use the processor

    return open_gpus(artifact, variant, partial(_opener, artifact, variant))


def _opener(artifact: Artifact, variant: Variant, gpu: Gpu) -> GpuOpener:
    """Return the opener of a variant on one GPU. A `MemoryGuard` limits the batches if the variant defines their memory."""
    from ...fleet.all_gpus import GpuOpener
    from ...memory.estimate import MemoryEstimate
    from ...memory.guard import MemoryGuard
    from .session import open_cuda

    if variant.memory is None:
        return GpuOpener(partial(open_cuda, artifact, variant, gpu))
    estimate = MemoryEstimate(variant.memory.scaled(DEVICE_FACTORS))

    def open_guarded() -> Session:
        session = open_cuda(artifact, variant, gpu)
        return MemoryGuard(session, estimate, partial(memory_info, gpu.index), is_held=session.is_held)

    return GpuOpener(open_guarded, estimate.metrics(gpu.device_name))


def _inspect(graph: bytes, weights_folder: Path) -> Any:
    """Open a graph on the first GPU, because the CPU provider lacks its attention operator."""
    from .ort import open_inference_session, provider_options

    return open_inference_session(graph, provider_options(0), weights_folder=weights_folder, optimize=False)


CUDA = Provider(
    name="cuda",
    title=TITLE,
    targets=("cuda",),
    device_kind="nvidia",
    needs=Needs(
        package="onnxruntime", oldest=(1, 27), extra="nvidia", distribution="onnxruntime-gpu", problem=gpu_problem
    ),
    open=_open,
    memory=NVIDIA_MEMORY,
    tuning=NVIDIA_TUNING,
    engines=("onnxruntime-gpu",),
    preferred=("fp16",),
    inspect=_inspect,
)
