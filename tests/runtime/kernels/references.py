"""The operators of the domain `fletcher` in numpy, in double precision, and single-node graphs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from scipy.special import erf

__all__ = ["Array", "gated_activation", "head_norm_rotary", "rounded", "run_operator", "skip_rms_norm"]

Array = NDArray[np.float64]

TYPES: Mapping[str, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def rounded(values: Array, precision: str) -> Array:
    """Return the values that a half type has."""
    if precision == "fp16":
        return values.astype(np.float16).astype(np.float64)
    bits = values.astype(np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.asarray(kept.astype(np.uint32).view(np.float32), np.float64)


def skip_rms_norm(
    x: Array, weight: Array, residual: Array | None, epsilon: float, precision: str
) -> tuple[Array, Array]:
    """Return the normed sum, and the sum."""
    total = x if residual is None else rounded(x + residual, precision)
    return total / np.sqrt(np.mean(total**2, axis=-1, keepdims=True) + epsilon) * weight, total


def gated_activation(gate: Array, up: Array, activation: str) -> Array:
    """Return activation(gate) · up."""
    if activation == "silu":
        return np.asarray(gate / (1 + np.exp(-gate)) * up)
    if activation == "gelu":
        return np.asarray(0.5 * gate * (1 + erf(gate / np.sqrt(2))) * up)
    return np.asarray(0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * up)


def head_norm_rotary(
    packed: Array,
    tables: tuple[Array, Array],
    norms: tuple[Array | None, Array | None],
    positions: NDArray[np.int32] | None,
    heads: tuple[int, int],
    *,
    repeats: int,
    interleaved: bool,
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Return query, key and value, as torch's implementations of Qwen3 and GPT-J compute them."""
    count, kv_count = heads
    size = packed.shape[-1] // (count + 2 * kv_count)
    split = packed.reshape(*packed.shape[:-1], -1, size)
    query, key, value = np.split(split, [count, count + kv_count], axis=-2)
    places = np.broadcast_to(np.arange(packed.shape[-2]), packed.shape[:-1]) if positions is None else positions
    cosines, sines = (table[places][..., None, :] for table in tables)  # (…, 1, pairs)

    def turned(rows: Array, norm: Array | None) -> Array:
        if norm is not None:
            rows = rows / np.sqrt(np.mean(rows**2, axis=-1, keepdims=True) + epsilon) * norm
        first, second = (rows[..., 0::2], rows[..., 1::2]) if interleaved else np.split(rows, 2, axis=-1)
        pairs = (first * cosines - second * sines, second * cosines + first * sines)
        return np.stack(pairs, axis=-1).reshape(rows.shape) if interleaved else np.concatenate(pairs, axis=-1)

    key, value = (np.repeat(part, repeats, axis=-2) for part in (turned(key, norms[1]), value))
    flat = [part.reshape(*packed.shape[:-1], -1) for part in (turned(query, norms[0]), key, value)]
    return flat[0], flat[1], flat[2]


def run_operator(
    library: Path,
    provider: str,
    operator: str,
    inputs: Sequence[Array | NDArray[np.int32] | None],
    outputs: int,
    precision: str,
    **attributes: Any,
) -> list[Array]:
    """Run one node whose floating-point inputs and outputs have a half type, and return its outputs."""
    kind = TYPES[precision]
    nodes, names, infos, feeds = [], [], [], {}
    for index, values in enumerate(inputs):
        if values is None:
            names.append("")
            continue
        name = f"input.{index}"
        is_float = values.dtype.kind == "f"
        declared = TensorProto.FLOAT if is_float else TensorProto.INT32
        infos.append(helper.make_tensor_value_info(name, declared, [f"{name}.{axis}" for axis in range(values.ndim)]))
        feeds[name] = values.astype(np.float32 if is_float else np.int32)
        if is_float:
            nodes.append(helper.make_node("Cast", [name], [f"{name}.half"], to=kind))
        names.append(f"{name}.half" if is_float else name)
    results = [f"output.{index}" for index in range(outputs)]
    nodes.append(helper.make_node(operator, names, results, domain="fletcher", **attributes))
    nodes += [helper.make_node("Cast", [name], [f"{name}.wide"], to=TensorProto.FLOAT) for name in results]
    wide = [helper.make_tensor_value_info(f"{name}.wide", TensorProto.FLOAT, None) for name in results]
    sets = [helper.make_opsetid("", 24), helper.make_opsetid("fletcher", 1)]
    model = helper.make_model(helper.make_graph(nodes, "one", infos, wide), opset_imports=sets, ir_version=11)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])
    return [np.asarray(values, np.float64) for values in session.run(None, feeds)]
