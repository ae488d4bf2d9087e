"""TensorRT for RTX: plug-in provider of ONNX Runtime for NVIDIA's consumer and workstation GPUs.

Its package contains all libraries. The plug-in is registered at run time, and sessions name a device instead of a provider.
Its engines are portable between GPUs. Kernels for a GPU are compiled when an engine is loaded, and stored in a folder beside
the engines.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...errors import MissingPackageError, ProviderError
from ...machine.gpus import Gpu
from . import RTX_TITLE
from .libraries import RTX_PACKAGE, rtx_capability_problem, rtx_problem
from .options import CONTEXT, RTX_EP, rtx_build_entries, rtx_options
from .profiles import limits_of, sides_of
from .session import TensorRtSession, engine_key, open_checked, open_engines, session_options

__all__ = ["check_capability", "open_tensorrt_rtx"]

_REGISTERING = threading.Lock()


def check_capability(gpu: Gpu) -> None:
    """Raise an error unless TensorRT RTX supports the GPU.

    Raises:
        ProviderError: TensorRT RTX does not support this GPU.
    """
    if (problem := rtx_capability_problem(gpu)) is not None:
        raise ProviderError(f"the provider tensorrt-rtx cannot be used here: {problem}")


def open_tensorrt_rtx(artifact: Artifact, variant: Variant, gpu: Gpu) -> TensorRtSession:
    """Open a `tensorrt` variant on TensorRT RTX. Its engines are built first if they are not in the cache.

    Args:
        artifact: artifact that contains the graph.
        variant: variant of the graph.
        gpu: GPU that runs the graph.

    Raises:
        MissingPackageError: the plug-in or onnxruntime is not installed.
        ProviderError: the GPU is not supported, the plug-in cannot be loaded, or it does not run the whole graph.
        ArtifactError: the variant has no usable profiles.
    """
    check_capability(gpu)
    limits_of(variant)
    onnxruntime, version = _register()
    device = _device(onnxruntime.get_ep_devices(), gpu)

    def options_for(sides: Any, compiled: Path, entries: dict[str, str] | None = None) -> Any:
        options = session_options(onnxruntime, entries)
        options.add_provider_for_devices([device], rtx_options(sides, compiled))
        return options

    def load(folder: Path, compiled: Path) -> Any:
        return open_checked(onnxruntime, folder / CONTEXT, options_for(None, compiled), RTX_EP)

    def make(profile: int, folder: Path, compiled: Path) -> None:
        sides = sides_of(variant, variant.profiles[profile])
        options = options_for(sides, compiled, rtx_build_entries(folder))
        open_checked(onnxruntime, (artifact.path / variant.file).absolute(), options, RTX_EP)

    key = engine_key(onnxruntime, artifact, variant, gpu, provider=RTX_EP, version=version)
    return open_engines(artifact, variant, key, make, load, provider=RTX_TITLE)


def _register() -> tuple[Any, str]:
    """Register the plug-in, and return ONNX Runtime and the version of the plug-in.

    Raises:
        MissingPackageError: the plug-in or onnxruntime is not installed.
        ProviderError: the plug-in is incomplete, or cannot be loaded.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "cpu", "the provider tensorrt-rtx") from error
    try:
        plugin = __import__(RTX_PACKAGE)  # the import loads the libraries
    except ImportError as error:
        name = RTX_PACKAGE.replace("_", "-")
        raise MissingPackageError(name, "tensorrt-rtx", "the provider tensorrt-rtx") from error
    if (problem := rtx_problem()) is not None:
        raise ProviderError(f"the provider tensorrt-rtx cannot be used here: {problem}")
    with _REGISTERING:
        if not _devices(onnxruntime.get_ep_devices()):
            try:
                onnxruntime.register_execution_provider_library(RTX_EP, plugin.get_library_path())
            except Exception as error:  # ONNX Runtime's errors have no common base class
                raise ProviderError(f"TensorRT RTX's plug-in cannot be loaded: {error}") from error
    return onnxruntime, str(plugin.__version__)


def _devices(devices: Sequence[Any]) -> list[Any]:
    return [device for device in devices if device.ep_name == RTX_EP]


def _device(devices: Sequence[Any], gpu: Gpu) -> Any:
    """Return the device of the plug-in with the PCI address of a GPU, or the only device.

    Raises:
        ProviderError: the plug-in has no device, or several without this address.
    """
    rtx_devices = _devices(devices)
    for device in rtx_devices:
        address = dict(device.device.metadata).get("pci_bus_id", "")
        if address and address.lower() == gpu.pci.lower():
            return device
    if len(rtx_devices) == 1:
        return rtx_devices[0]
    if not rtx_devices:
        raise ProviderError(f"TensorRT RTX's plug-in finds no GPU, although it supports {gpu.name}: update the driver")
    raise ProviderError(
        f"TensorRT RTX's plug-in finds {len(rtx_devices)} GPUs and does not report which one is {gpu.pci}: "
        "set CUDA_VISIBLE_DEVICES to one GPU"
    )
