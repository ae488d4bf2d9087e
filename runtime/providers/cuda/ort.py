"""ONNX Runtime's CUDA provider: its options, its sessions, its errors."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, DeviceLostError, DeviceMemoryError, MissingPackageError, ProviderError
from ...machine.cuda_driver import Stream

__all__ = ["CUDA", "import_onnxruntime", "open_inference_session", "provider_options", "run_options", "translate"]

CUDA = "CUDAExecutionProvider"

#: How ONNX Runtime's messages begin or what they name where memory ran out: its arena's and CUDA's, cuBLAS' and cuDNN's own.
_MEMORY = re.compile(
    r"Failed to allocate memory|Available memory of|out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|"
    r"CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)

#: The same where the GPU's context is lost.
_LOST = re.compile(
    r"illegal memory access|unspecified launch failure|misaligned address|illegal instruction|device-side assert|ECC|"
    r"device is (?:busy or )?unavailable|fell off|CUBLAS_STATUS_EXECUTION_FAILED|CUBLAS_STATUS_INTERNAL_ERROR|"
    r"CUDA failure (?:46|214|220|226|700|702|710|714|715|716|717|718|719|721|999)\b",
    re.IGNORECASE,
)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime and load its CUDA libraries.

    Raises:
        MissingPackageError: it is not installed, or is a build without CUDA.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime-gpu", "nvidia", "running on an NVIDIA GPU") from error
    if CUDA not in onnxruntime.get_available_providers():
        raise MissingPackageError("onnxruntime-gpu", "nvidia", "running on an NVIDIA GPU")
    _preload(onnxruntime)
    return onnxruntime


@cache
def _preload(onnxruntime: Any) -> str:
    """Load the nvidia packages' libraries, which the system's loader does not look for; return what was printed of them."""
    output = io.StringIO()
    with redirect_stdout(output):  # it prints what it does not find
        onnxruntime.preload_dlls()
    return output.getvalue().strip()


def provider_options(index: int, *, stream: Stream | None = None) -> Mapping[str, str]:
    """Return the options of the provider.

    Args:
        index: of the GPU.
        stream: on which runs are captured as CUDA graphs and replayed; None captures none, on streams of ONNX Runtime's own.
    """
    options = {
        "device_id": str(index),
        # Products of float32 with 10 bits of mantissa would be another model's.
        "use_tf32": "0",
        # Adding, norm and bias in one kernel, with statistics in float32: without it they are summed in the graph's type.
        "enable_skip_layer_norm_strict_mode": "1",
        # The default doubles the arena each time, and never gives it back.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if stream is not None:
        options["enable_cuda_graph"] = "1"
        options["user_compute_stream"] = str(stream.pointer.value)
    return options


def open_inference_session(
    graph: Path | bytes, options: Mapping[str, str], *, weights_folder: Path | None = None, optimize: bool = True
) -> Any:
    """Open a session all of whose nodes run on the GPU.

    Args:
        graph: the ONNX file, or a serialized model.
        options: of the provider.
        weights_folder: where a serialized model's weights lie.
        optimize: whether ONNX Runtime may join nodes, whose values are gone then.

    Raises:
        MissingPackageError: no ONNX Runtime with CUDA is installed.
        ArtifactError: the graph cannot be loaded.
        DeviceMemoryError: the GPU has no room for it.
        ProviderError: CUDA's libraries cannot be loaded, or a node would not run on the GPU.
    """
    onnxruntime = import_onnxruntime()
    name = f"a graph of {weights_folder}" if isinstance(graph, bytes) else str(graph)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False  # one would be kept for every shape that ever came
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if weights_folder is not None:
        folder = str(weights_folder.absolute())
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Where query, key and value come in one array, ONNX Runtime takes flash attention only from 513 tokens on, for the sake
    # of TensorRT's kernels, which no GPU since Hopper has. It reads this when a session is made, and has no option for it.
    os.environ.setdefault("ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV", "0")
    try:
        # Without `enable_fallback` ONNX Runtime would try again on the processor, and only print it.
        session = onnxruntime.InferenceSession(graph, settings, providers=[(CUDA, dict(options))], enable_fallback=0)
    except Exception as error:
        raise _cannot_open(name, error, onnxruntime) from error
    if session.get_providers()[0] != CUDA:
        raise ProviderError(f"{name} was to run on {CUDA}, and runs on {session.get_providers()[0]}")
    return session


def run_options(graph: int) -> Any:
    """Return the options of a run that captures or replays the graph of a number, from 1. The caller waits for the stream."""
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _cannot_open(graph: str, error: Exception, onnxruntime: Any) -> Exception:
    text = str(error)
    if "assigned to the default CPU EP" in text:  # its CUDA provider did not load, and the log alone says why
        text = f"{_preload(onnxruntime)} {text}".strip()
    if re.search(r"libcu|cannot open shared object|assigned to the default CPU EP", text):
        version = getattr(onnxruntime, "cuda_version", "") or "13"
        return ProviderError(
            f"ONNX Runtime {onnxruntime.__version__} is built for CUDA {version}, whose libraries cannot be loaded: {text}. "
            "Install those with: pip install 'longbow-fletcher[nvidia]'"
        )
    translated = translate(error, f"ONNX Runtime cannot load {graph}")
    return ArtifactError(str(translated)) if type(translated) is ProviderError and "CUDA" not in text else translated


def translate(error: Exception, what: str) -> ProviderError:
    """Translate an error of ONNX Runtime; its errors have no base class and differ by their text alone."""
    text = str(error)
    if _MEMORY.search(text):
        return DeviceMemoryError(f"{what}: the GPU has not enough free memory: {text}")
    if _LOST.search(text):
        return DeviceLostError(f"{what}: the GPU failed: {text}")
    return ProviderError(f"{what}: {text}")
