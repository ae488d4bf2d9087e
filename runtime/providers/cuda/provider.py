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

#: What a batch needs on the GPU to begin with; the prediction is corrected by what is measured there. No rectangle exists
#: before the pooling, and no square of scores.
DEVICE_FACTORS = MemoryFactors(1.0, 0.25, 0.0, 1.0)


def _open(artifact: Artifact, variant: Variant, options: OpenOptions) -> Session:
    from ...fleet.all_gpus import open_gpus  # what a process on the processor does not need is not imported

    return open_gpus(artifact, variant, partial(_opener, artifact, variant))


def _opener(artifact: Artifact, variant: Variant, gpu: Gpu) -> GpuOpener:
    """Return how a variant is opened on one GPU, its batches fitted into the GPU's memory where the graph says their need."""
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
    """Open a graph on the first GPU: its attention is an operator that the CPU provider lacks."""
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
    inspect=_inspect,
)
