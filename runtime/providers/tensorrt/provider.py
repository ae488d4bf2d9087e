"""`TENSORRT` and `TENSORRT_RTX`: TensorRT through ONNX Runtime on all NVIDIA GPUs of the machine."""

from __future__ import annotations

from functools import partial

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...machine.gpus import Gpu
from ...machine.machine import Machine
from ...session.session import Session
from ..nvidia import NVIDIA_MEMORY, NVIDIA_TUNING, gpu_problem
from ..provider import Needs, OpenOptions, Provider
from . import RTX_TITLE, TITLE
from .libraries import RTX_PACKAGE, rtx_problem, tensorrt_problem

__all__ = ["TENSORRT", "TENSORRT_RTX"]


def _open(artifact: Artifact, variant: Variant, options: OpenOptions) -> Session:
    from ...fleet.all_gpus import GpuOpener, open_gpus  # not imported by processes that only use the processor
    from .session import open_tensorrt

    def opener(gpu: Gpu) -> GpuOpener:
        return GpuOpener(partial(open_tensorrt, artifact, variant, gpu, allow_cuda=options.allow_fallback))

    return open_gpus(artifact, variant, opener)


def _open_rtx(artifact: Artifact, variant: Variant, options: OpenOptions) -> Session:
    from ...fleet.all_gpus import GpuOpener, open_gpus
    from .rtx import open_tensorrt_rtx

    return open_gpus(artifact, variant, lambda gpu: GpuOpener(partial(open_tensorrt_rtx, artifact, variant, gpu)))


def _problem(machine: Machine) -> str | None:
    return tensorrt_problem() or gpu_problem(machine)


def _rtx_problem(machine: Machine) -> str | None:
    return rtx_problem() or gpu_problem(machine)


TENSORRT = Provider(
    name="tensorrt",
    title=TITLE,
    targets=("tensorrt",),
    device_kind="nvidia",
    needs=Needs(package="onnxruntime", oldest=(1, 27), extra="tensorrt", problem=_problem),
    open=_open,
    memory=NVIDIA_MEMORY,
    tuning=NVIDIA_TUNING,
    engines=("onnxruntime-gpu",),
    preferred=("fp16",),
)
TENSORRT_RTX = Provider(
    name="tensorrt-rtx",
    title=RTX_TITLE,
    targets=("tensorrt",),
    device_kind="nvidia",
    needs=Needs(package=RTX_PACKAGE, oldest=(0, 5), extra="tensorrt-rtx", problem=_rtx_problem),
    open=_open_rtx,
    memory=NVIDIA_MEMORY,
    tuning=NVIDIA_TUNING,
    engines=("onnxruntime", RTX_PACKAGE),
    preferred=("fp16",),
)
