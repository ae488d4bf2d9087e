"""Options of ONNX Runtime's TensorRT providers: names and values for their parser.

The parser rejects unknown names, and accepts booleans only as `True` and `False` (benchmarks/gpu/check_tensorrt.py checks
both). No option requests fp16, bf16 or int8: without such an option ONNX Runtime makes the network strongly typed
(`network_flags` in its tensorrt_execution_provider.cc), so every value has the type that the graph defines.

This file imports only the standard library, so that it can be used alone on a GPU host without Fletcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "CONTEXT",
    "CUDA_EP",
    "ENGINES",
    "RTX_EP",
    "SESSION_ENTRIES",
    "TENSORRT_EP",
    "rtx_build_entries",
    "rtx_options",
    "shapes_text",
    "tensorrt_build_options",
    "tensorrt_options",
]

TENSORRT_EP = "TensorrtExecutionProvider"
RTX_EP = "NvTensorRTRTXExecutionProvider"
CUDA_EP = "CUDAExecutionProvider"

#: File name of the model that contains an engine in place of the graph (ONNX Runtime's "EP context"), and name of the
#: folder of the engines beside it.
CONTEXT, ENGINES = "context.onnx", "engines"

#: Entries of every session: no node may run on the processor, and the session reports the provider of each node.
SESSION_ENTRIES: Mapping[str, str] = {
    "session.disable_cpu_ep_fallback": "1",
    "session.record_ep_graph_assignment_info": "1",
}


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return one side of a profile: `ids:1x16,mask:1x16`. (A repeated input name would start a second profile.)"""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def tensorrt_options(device: int) -> dict[str, str]:
    """Return the options of a session on a built engine. Its model has no network, so it cannot build another engine."""
    return {"device_id": str(device)}


def tensorrt_build_options(
    device: int, sides: Sequence[Mapping[str, Sequence[int]]], folder: Path, timing: Path
) -> dict[str, str]:
    """Return the options of a session that builds an engine and writes it to a file.

    Args:
        device: number of the GPU.
        sides: smallest, best and largest shapes by input.
        folder: folder in which `CONTEXT` is written. The path of the engines must be relative to it.
        timing: folder of TensorRT's measurements of kernels, which builds of other engines reuse.
    """
    smallest, best, largest = sides
    return {
        **tensorrt_options(device),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": ENGINES,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(timing),
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(folder / CONTEXT),
        "trt_ep_context_embed_mode": "0",
        "trt_profile_min_shapes": shapes_text(smallest),
        "trt_profile_opt_shapes": shapes_text(best),
        "trt_profile_max_shapes": shapes_text(largest),
    }


def rtx_options(sides: Sequence[Mapping[str, Sequence[int]]] | None, compiled: Path) -> dict[str, str]:
    """Return the options of TensorRT RTX.

    Args:
        sides: see `tensorrt_build_options`; None for a built engine.
        compiled: folder of kernels that are compiled for the GPU at load; the engines themselves are portable.
    """
    options = {"nv_runtime_cache_path": str(compiled)}
    if sides is not None:
        names = ("nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes")
        options |= {name: shapes_text(side) for name, side in zip(names, sides, strict=True)}
    return options


def rtx_build_entries(folder: Path) -> dict[str, str]:
    """Return the entries of a session that builds an engine: the path of the context model, which contains the engine."""
    return {
        "ep.context_enable": "1",
        "ep.context_file_path": str(folder / CONTEXT),
        "ep.context_embed_mode": "1",
    }
