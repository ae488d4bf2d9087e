"""Check of TensorRT's libraries, because ONNX Runtime runs on the processor without them and reports no error.

`onnxruntime-gpu` always lists the provider. The provider needs libraries of TensorRT, which no onnxruntime package contains.
If they are missing, ONNX Runtime logs a line, leaves out the provider and uses the processor.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

from ...errors import MissingPackageError, ProviderError
from ...machine.gpus import Gpu, this_gpus

__all__ = [
    "RTX_PACKAGE",
    "load_tensorrt",
    "require_provider",
    "rtx_capability_problem",
    "rtx_problem",
    "tensorrt_problem",
]

#: Package in the wheels of `tensorrt-cu13` that contains the libraries.
PACKAGE = "tensorrt_libs"
PROVIDER_LIBRARY = "libonnxruntime_providers_tensorrt.so"
REMEDY = "pip install 'longbow-fletcher[tensorrt]' with NVIDIA's package index, or put them on LD_LIBRARY_PATH"
RTX_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"

#: Compute capabilities that TensorRT RTX supports, and the one from which on it supports all:
#: `IsComputeCapabilitySupported` in the header tensorrt_rtx_provider_options.h of its package, 0.5.
RTX_TAKEN, RTX_FROM = ((8, 6), (8, 9)), (12, 0)


def tensorrt_problem() -> str | None:
    """Return the reason why ONNX Runtime cannot use TensorRT here, or None. This loads TensorRT's libraries."""
    # These variables would override options that the artifact defines: precision, profiles, cache folders.
    if overriding := sorted(name for name in os.environ if name.startswith("ORT_TENSORRT_")):
        return f"{', '.join(overriding)} would change the options of TensorRT: unset these variables"
    provider = _provider_library()
    if provider is None:
        return "no onnxruntime with a TensorRT provider is installed: pip install 'longbow-fletcher[tensorrt]'"
    names = _required_libraries(provider)
    if missing := [name for name in names if _load(name) is None]:
        return f"TensorRT's {' and '.join(missing)}, which onnxruntime needs, cannot be loaded{_other_versions()}: {REMEDY}"
    return None


def require_provider() -> None:
    """Raise an error unless onnxruntime has a TensorRT provider.

    Raises:
        MissingPackageError: no ONNX Runtime with a TensorRT provider is installed.
    """
    if _provider_library() is None:
        raise MissingPackageError("onnxruntime-gpu", "tensorrt", "the provider tensorrt")


def load_tensorrt() -> str:
    """Load TensorRT's libraries, so that ONNX Runtime finds them in any folder.

    Returns:
        The version of TensorRT, for example `10.13.3`.

    Raises:
        ProviderError: the libraries cannot be loaded.
    """
    if (problem := tensorrt_problem()) is not None:
        raise ProviderError(f"the provider tensorrt cannot be used here: {problem}")
    provider = _provider_library()
    assert provider is not None  # otherwise `tensorrt_problem` reports it
    version = next(
        library.getInferLibVersion()
        for name in _required_libraries(provider)
        if (library := _load(name)) is not None and name.startswith("libnvinfer.")
    )
    # NV_TENSORRT_VERSION of NvInferVersion.h, since TensorRT 10.
    return f"{version // 10_000}.{version // 100 % 100}.{version % 100}"


def rtx_capability_problem(gpu: Gpu) -> str | None:
    """Return the reason why TensorRT RTX does not support a GPU, or None."""
    if gpu.capability in RTX_TAKEN or gpu.capability >= RTX_FROM:
        return None
    capability = ".".join(map(str, gpu.capability))
    return (
        f"TensorRT RTX supports GPUs of compute capability 8.6, 8.9 and 12.0 upward, and {gpu.name} has {capability}: "
        "use the provider tensorrt or cuda"
    )


def rtx_problem() -> str | None:
    """Return the reason why the plug-in of TensorRT RTX cannot be used here, or None."""
    if sys.platform not in ("linux", "win32"):
        return "TensorRT RTX exists for Linux and Windows"
    refusals = [rtx_capability_problem(gpu) for gpu in this_gpus().gpus]
    if refusals and None not in refusals:
        return refusals[0]
    folder = _package_folder(RTX_PACKAGE)
    if folder is None or not any(folder.glob("*onnxruntime_providers_nv_tensorrt_rtx.*")):
        return "TensorRT RTX's plug-in is incomplete: pip install --force-reinstall 'longbow-fletcher[tensorrt-rtx]'"
    try:
        version = metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return None  # another distribution may contain the module; registering the plug-in shows an error if not
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 24):
        return f"TensorRT RTX's plug-in needs onnxruntime 1.24, and {version} is installed: pip install --upgrade onnxruntime"
    return None


def _provider_library() -> Path | None:
    folder = _package_folder("onnxruntime")
    file = None if folder is None else folder / "capi" / PROVIDER_LIBRARY
    return file if file is not None and file.is_file() else None


@cache
def _required_libraries(provider: Path) -> tuple[str, ...]:
    """Return the names of TensorRT's libraries, with the version that the provider is linked with."""
    names = re.findall(rb"lib(?:nvinfer|nvonnxparser)\.so\.\d+", provider.read_bytes())
    return tuple(sorted({name.decode() for name in names}))


def _load(name: str) -> ctypes.CDLL | None:
    """Load a library from the package or the system's path, or return None. It stays loaded, so ONNX Runtime finds it."""
    for path in (*(str(folder / name) for folder in _library_folders()), name):
        try:
            return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
    return None


def _library_folders() -> Iterator[Path]:
    if (folder := _package_folder(PACKAGE)) is not None:
        yield folder


def _other_versions() -> str:
    """Return the libraries that the package contains instead, for the message."""
    names = sorted(file.name for folder in _library_folders() for file in folder.glob("libnvinfer.so.*"))
    return f" (the package tensorrt-cu13 contains {', '.join(names)})" if names else ""


def _package_folder(package: str) -> Path | None:
    """Return the folder of a package without importing it, or None."""
    try:
        spec = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):  # an import hook hides the module, or a test double has no specification
        return None
    return None if spec is None or not spec.submodule_search_locations else Path(spec.submodule_search_locations[0])
