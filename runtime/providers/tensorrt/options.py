"""Options of ONNX Runtime's TensorRT providers: names and values, as their parser takes them.

The parser refuses a name that it does not know, and takes booleans only as `True` and `False`
(benchmarks/gpu/check_tensorrt.py shows both). No option asks for fp16, bf16 or int8: where none does, ONNX Runtime makes the
network strongly typed (`network_flags` in its tensorrt_execution_provider.cc), so that every value has the type that the
graph says.

Nothing here imports anything, so that a GPU host without Fletcher can read this file alone.
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

#: The model that holds an engine in place of the graph (ONNX Runtime's «EP context»), and the engines' folder beside it.
CONTEXT, ENGINES = "context.onnx", "engines"

#: Of every session: no node may go to the processor, and the session reports where each went.
SESSION_ENTRIES: Mapping[str, str] = {
    "session.disable_cpu_ep_fallback": "1",
    "session.record_ep_graph_assignment_info": "1",
}


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return one side of a profile: `ids:1x16,mask:1x16`. (Naming an input again would begin a second profile.)"""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def tensorrt_options(device: int) -> dict[str, str]:
    """Return the options of a session on an engine that was built: its model holds no network to build another from."""
    return {"device_id": str(device)}


def tensorrt_build_options(
    device: int, sides: Sequence[Mapping[str, Sequence[int]]], folder: Path, timing: Path
) -> dict[str, str]:
    """Return the options of a session that builds an engine and writes it to a file.

    Args:
        device: the GPU's number.
        sides: smallest, best and largest shapes by input.
        folder: where `CONTEXT` is written. With a context, the engines' folder has to be relative to it.
        timing: the folder of what TensorRT measured of its kernels; other engines' builds reuse it.
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
        sides: as for `tensorrt_build_options`; None for an engine that was built.
        compiled: the folder of what it compiles on the GPU; its engines are portable, the rest is compiled at load.
    """
    options = {"nv_runtime_cache_path": str(compiled)}
    if sides is not None:
        names = ("nv_profile_min_shapes", "nv_profile_opt_shapes", "nv_profile_max_shapes")
        options |= {name: shapes_text(side) for name, side in zip(names, sides, strict=True)}
    return options


def rtx_build_entries(folder: Path) -> dict[str, str]:
    """Return the entries of the session that builds: the place of its context model, with the engine inside."""
    return {
        "ep.context_enable": "1",
        "ep.context_file_path": str(folder / CONTEXT),
        "ep.context_embed_mode": "1",
    }
