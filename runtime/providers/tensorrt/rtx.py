"""TensorRT for RTX: a plug-in provider of ONNX Runtime, for NVIDIA's consumer and workstation GPUs.

It comes with its libraries in one package, is registered at run time and given a device, not a provider's name. Its engines
are portable between GPUs; what a GPU runs is compiled when an engine is loaded, and kept in a folder beside them.
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
        ProviderError: TensorRT RTX does not take this GPU.
    """
    if (problem := rtx_capability_problem(gpu)) is not None:
        raise ProviderError(f"the provider tensorrt-rtx cannot be used here: {problem}")


def open_tensorrt_rtx(artifact: Artifact, variant: Variant, gpu: Gpu) -> TensorRtSession:
    """Open a `tensorrt` variant on TensorRT RTX; its engines are built first if the cache has none.

    Args:
        artifact: where the graph lies.
        variant: which graph.
        gpu: where it runs.

    Raises:
        MissingPackageError: the plug-in or onnxruntime is not installed.
        ProviderError: the GPU is none that it takes, the plug-in cannot be loaded, or it does not take the graph as a whole.
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
    """Register the plug-in; return ONNX Runtime and the plug-in's version.

    Raises:
        MissingPackageError: one of them is not installed.
        ProviderError: the plug-in is not whole, or cannot be loaded.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", "cpu", "the provider tensorrt-rtx") from error
    try:
        plugin = __import__(RTX_PACKAGE)  # loads its libraries
    except ImportError as error:
        name = RTX_PACKAGE.replace("_", "-")
        raise MissingPackageError(name, "tensorrt-rtx", "the provider tensorrt-rtx") from error
    if (problem := rtx_problem()) is not None:
        raise ProviderError(f"the provider tensorrt-rtx cannot be used here: {problem}")
    with _REGISTERING:
        if not _devices(onnxruntime.get_ep_devices()):
            try:
                onnxruntime.register_execution_provider_library(RTX_EP, plugin.get_library_path())
            except Exception as error:  # ONNX Runtime's errors have no base of their own
                raise ProviderError(f"TensorRT RTX's plug-in cannot be loaded: {error}") from error
    return onnxruntime, str(plugin.__version__)


def _devices(devices: Sequence[Any]) -> list[Any]:
    return [device for device in devices if device.ep_name == RTX_EP]


def _device(devices: Sequence[Any], gpu: Gpu) -> Any:
    """Return the plug-in's device of a GPU: by its address on the bus if both have it, else the only one.

    Raises:
        ProviderError: there is none, or it is not known which one it is.
    """
    own = _devices(devices)
    for device in own:
        address = dict(device.device.metadata).get("pci_bus_id", "")
        if address and address.lower() == gpu.pci.lower():
            return device
    if len(own) == 1:
        return own[0]
    if not own:
        raise ProviderError(
            f"TensorRT RTX's plug-in finds no GPU, though {gpu.name} is one that it takes: update the driver"
        )
    raise ProviderError(
        f"TensorRT RTX's plug-in finds {len(own)} GPUs and does not tell which is {gpu.pci}: "
        "let CUDA_VISIBLE_DEVICES name one"
    )
