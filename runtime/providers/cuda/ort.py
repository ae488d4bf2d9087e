"""ONNX Runtime's CUDA provider: options, sessions and errors."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from ...artifact.graph.domains import operator_domains
from ...artifact.graph.operators import FLETCHER
from ...errors import ArtifactError, DeviceLostError, DeviceMemoryError, MissingPackageError, ProviderError
from ...kernels.library import find_library
from ...machine.cuda_driver import Stream

__all__ = ["CUDA", "import_onnxruntime", "open_inference_session", "provider_options", "run_options", "translate"]

CUDA = "CUDAExecutionProvider"

#: Texts in ONNX Runtime's messages about too little memory, from its arena, CUDA, cuBLAS and cuDNN.
_MEMORY = re.compile(
    r"Failed to allocate memory|Available memory of|out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|"
    r"CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)

#: Texts in ONNX Runtime's messages about a lost context of the GPU.
_LOST = re.compile(
    r"illegal memory access|unspecified launch failure|misaligned address|illegal instruction|device-side assert|ECC|"
    r"device is (?:busy or )?unavailable|fell off|CUBLAS_STATUS_EXECUTION_FAILED|CUBLAS_STATUS_INTERNAL_ERROR|"
    r"CUDA failure (?:46|214|220|226|700|702|710|714|715|716|717|718|719|721|999)\b",
    re.IGNORECASE,
)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime and load its CUDA libraries.

    Raises:
        MissingPackageError: onnxruntime is not installed, or was built without CUDA.
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
    """Load the libraries of the nvidia packages, which the system's loader does not find; return the printed messages."""
    output = io.StringIO()
    with redirect_stdout(output):  # the function prints the libraries that it does not find
        onnxruntime.preload_dlls()
    return output.getvalue().strip()


def provider_options(index: int, *, stream: Stream | None = None, capture: bool = False) -> Mapping[str, str]:
    """Return the options of the provider.

    Args:
        index: number of the GPU.
        stream: stream of all runs. None: ONNX Runtime uses its own streams.
        capture: whether runs are captured as CUDA graphs and replayed; it needs a stream.
    """
    options = {
        "device_id": str(index),
        # TF32 computes float32 products with 10 bits of mantissa, which changes the vectors too much.
        "use_tf32": "0",
        # The kernel that joins addition, norm and bias computes statistics in float32; otherwise in the type of the graph.
        "enable_skip_layer_norm_strict_mode": "1",
        # The default doubles the arena each time, and never frees the memory.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if stream is not None:
        options["user_compute_stream"] = str(stream.pointer.value)
    if capture:
        options["enable_cuda_graph"] = "1"
    return options


def open_inference_session(
    graph: Path | bytes, options: Mapping[str, str], *, weights_folder: Path | None = None, optimize: bool = True
) -> Any:
    """Open a session whose nodes all run on the GPU.

    Args:
        graph: ONNX file, or serialized model.
        options: options of the provider.
        weights_folder: folder of the weights of a serialized model.
        optimize: whether ONNX Runtime may join nodes, which removes the values between them.

    Raises:
        MissingPackageError: no ONNX Runtime with CUDA is installed.
        ArtifactError: the graph cannot be loaded.
        DeviceMemoryError: the GPU does not have enough memory for the graph.
        ProviderError: the CUDA libraries cannot be loaded, a node would not run on the GPU, or the library of Fletcher's
            operators, which the graph needs, was not built.
    """
    onnxruntime = import_onnxruntime()
    kernels = find_library() if _has_own_operators(graph) else None
    name = f"a graph of {weights_folder}" if isinstance(graph, bytes) else str(graph)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False  # ONNX Runtime would keep a pattern for every shape
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if weights_folder is not None:
        folder = str(weights_folder.absolute())
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    if not optimize:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # If query, key and value are one array, ONNX Runtime uses flash attention only from 513 tokens on, and TensorRT's
    # kernels for shorter texts. GPUs since Hopper have no such kernels. ONNX Runtime reads this variable when a session is
    # opened, and has no option for it.
    os.environ.setdefault("ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV", "0")
    try:
        if kernels is not None:
            settings.register_custom_ops_library(str(kernels))
        # Without `enable_fallback=0`, ONNX Runtime would open the session on the processor and only print a message.
        session = onnxruntime.InferenceSession(graph, settings, providers=[(CUDA, dict(options))], enable_fallback=0)
    except Exception as error:
        raise _cannot_open(name, error, onnxruntime) from error
    if session.get_providers()[0] != CUDA:
        raise ProviderError(f"{name} should run on {CUDA}, and runs on {session.get_providers()[0]}")
    return session


def _has_own_operators(graph: Path | bytes) -> bool:
    """Return whether a graph has operators of Fletcher's domain."""
    try:
        data = graph if isinstance(graph, bytes) else graph.read_bytes()
    except OSError:
        return False  # ONNX Runtime has the message
    return FLETCHER in operator_domains(data)


def run_options(graph: int | None = None) -> Any:
    """Return the options of a run that returns when its work is on the stream; the caller waits for the stream.

    Args:
        graph: number of the CUDA graph that the run captures or replays, from 1; None: the run has no graph.
    """
    options = import_onnxruntime().RunOptions()
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _cannot_open(graph: str, error: Exception, onnxruntime: Any) -> Exception:
    text = str(error)
    if "assigned to the default CPU EP" in text:  # its CUDA provider did not load; only the log has the reason
        text = f"{_preload(onnxruntime)} {text}".strip()
    if re.search(r"libcu|cannot open shared object|assigned to the default CPU EP", text):
        version = getattr(onnxruntime, "cuda_version", "") or "13"
        return ProviderError(
            f"ONNX Runtime {onnxruntime.__version__} is built for CUDA {version}, whose libraries cannot be loaded: {text}. "
            "Install them with: pip install 'longbow-fletcher[nvidia]'"
        )
    translated = translate(error, f"ONNX Runtime cannot load {graph}")
    return ArtifactError(str(translated)) if type(translated) is ProviderError and "CUDA" not in text else translated


def translate(error: Exception, operation: str) -> ProviderError:
    """Return the Fletcher error for an error of ONNX Runtime, whose errors differ only in their text.

    Args:
        error: error of ONNX Runtime.
        operation: failed operation, for the message.
    """
    text = str(error)
    if _MEMORY.search(text):
        return DeviceMemoryError(f"{operation}: the GPU has not enough free memory: {text}")
    if _LOST.search(text):
        return DeviceLostError(f"{operation}: the GPU failed: {text}")
    return ProviderError(f"{operation}: {text}")
