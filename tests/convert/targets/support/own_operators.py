"""Replacement of Fletcher's own operators by standard ones, by their contracts in runtime/kernels/source/launch.h.

The operators compute in float32 between their inputs and outputs of a half type, and so do the standard ones here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OWN_SPELLINGS"]

Constants = dict[str, onnx.TensorProto]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _constant(constants: Constants, values: list[int]) -> str:
    name = f"spelled/int64/{values}"
    constants[name] = numpy_helper.from_array(np.array(values, np.int64), name)
    return name


def _widen(value: str, prefix: str, name: str) -> tuple[onnx.NodeProto, str]:
    """Return a cast of a value to float32, and its name."""
    wide = f"{prefix}/{name}/float"
    return helper.make_node("Cast", [value], [wide], name=wide, to=TensorProto.FLOAT), wide


def _skip_rms_norm(node: onnx.NodeProto, _: Constants) -> Iterator[onnx.NodeProto]:
    value, weight, *residual = node.input
    if residual:
        yield helper.make_node("Add", [value, residual[0]], [node.output[1]], name=node.output[1])
        value = node.output[1]
    prefix, epsilon = f"{node.name}/spelled", _attributes(node)["epsilon"]
    wide = []
    for name, part in (("sum", value), ("weight", weight)):
        cast, part = _widen(part, prefix, name)
        yield cast
        wide.append(part)
    yield helper.make_node("RMSNormalization", wide, [f"{prefix}/normed"], name=prefix, axis=-1, epsilon=epsilon)
    yield helper.make_node("CastLike", [f"{prefix}/normed", value], [node.output[0]], name=node.name)


def _gated_activation(node: onnx.NodeProto, _: Constants) -> Iterator[onnx.NodeProto]:
    prefix, activation = f"{node.name}/spelled", _attributes(node)["activation"].decode()
    sigmoid, active, gate, up = (f"{prefix}/{part}" for part in ("sigmoid", "active", "gate/float", "up/float"))
    for name, value in zip(("gate", "up"), node.input, strict=True):
        yield _widen(value, prefix, name)[0]
    if activation == "silu":
        yield helper.make_node("Sigmoid", [gate], [sigmoid], name=sigmoid)
        yield helper.make_node("Mul", [gate, sigmoid], [active], name=active)
    else:
        approximate = {"gelu": "none", "gelu_tanh": "tanh"}[activation]
        yield helper.make_node("Gelu", [gate], [active], name=active, approximate=approximate)
    yield helper.make_node("Mul", [active, up], [f"{prefix}/gated"], name=prefix)
    yield helper.make_node("CastLike", [f"{prefix}/gated", node.input[0]], [node.output[0]], name=node.name)


def _head_norm_rotary(node: onnx.NodeProto, constants: Constants) -> Iterator[onnx.NodeProto]:
    """Yield the nodes for rows in a rectangle, or for packed rows with positions."""
    attributes, prefix = _attributes(node), f"{node.name}/spelled"
    packed, cosines, sines, query_norm, key_norm, positions = (*node.input, "", "", "")[:6]
    heads, key_heads = attributes["num_heads"], attributes["kv_num_heads"]
    count = [heads, *[key_heads] * (len(node.output) - 1)]

    def constant(values: list[int]) -> str:
        return _constant(constants, values)

    def make(operator: str, inputs: list[str], name: str, **others: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [f"{prefix}/{name}"], name=f"{prefix}/{name}", **others)

    wide = {}
    for name, value in zip(("packed", "cosines", "sines", "query_norm", "key_norm"), node.input, strict=False):
        if value:
            cast, wide[value] = _widen(value, prefix, name)
            yield cast
    rows = wide[packed]
    if positions:
        yield make("Unsqueeze", [rows, constant([0])], "batch")
        yield make("Unsqueeze", [positions, constant([0])], "positions")
        rows = f"{prefix}/batch"
    yield make("Reshape", [rows, constant([0, 0, sum(count), -1])], "heads")
    parts = [f"{prefix}/{part}" for part in ("query", "key", "value")[: len(count)]]
    yield helper.make_node("Split", [f"{prefix}/heads", constant(count)], parts, name=f"{prefix}/split", axis=2)
    yield make("Shape", [rows], "sides", end=2)
    tables = []
    for name, table in (("cosines", wide[cosines]), ("sines", wide[sines])):
        if positions:
            yield make("Gather", [table, f"{prefix}/positions"], name)
        else:
            yield make("Shape", [rows], f"{name}/longest", start=1, end=2)
            yield make("Slice", [table, constant([0]), f"{prefix}/{name}/longest", constant([0])], f"{name}/rows")
            yield make("Shape", [f"{prefix}/{name}/rows"], f"{name}/pairs", start=1, end=2)
            yield make("Concat", [f"{prefix}/sides", f"{prefix}/{name}/pairs"], f"{name}/shape", axis=0)
            yield make("Expand", [f"{prefix}/{name}/rows", f"{prefix}/{name}/shape"], name)
        tables.append(f"{prefix}/{name}")
    for part, norm, number, output in zip(parts, (query_norm, key_norm, ""), count, node.output, strict=False):
        last = part
        short = part.removeprefix(f"{prefix}/")
        if norm:
            yield make(
                "RMSNormalization", [last, wide[norm]], f"{short}/normed", axis=-1, epsilon=attributes["epsilon"]
            )
            last = f"{part}/normed"
        if short != "value":
            yield make("Reshape", [last, constant([0, 0, -1])], f"{short}/rows")
            interleaved = attributes["interleaved"]
            inputs = [f"{part}/rows", *tables]
            yield make("RotaryEmbedding", inputs, f"{short}/turned", num_heads=number, interleaved=interleaved)
            yield make("Reshape", [f"{part}/turned", constant([0, 0, number, -1])], f"{short}/split")
            last = f"{part}/split"
        if short != "query":
            yield make("Unsqueeze", [last, constant([3])], f"{short}/each")
            yield make("Concat", [f"{part}/each"] * attributes["repeats"], f"{short}/repeated", axis=3)
            last = f"{part}/repeated"
        yield make("Reshape", [last, constant([0, 0, -1])], f"{short}/flat")
        last = f"{part}/flat"
        if positions:
            yield make("Squeeze", [last, constant([0])], f"{short}/packed")
            last = f"{part}/packed"
        yield helper.make_node("CastLike", [last, packed], [output], name=output)


OWN_SPELLINGS: Mapping[str, Callable[[onnx.NodeProto, Constants], Iterator[onnx.NodeProto]]] = {
    "GatedActivation": _gated_activation,
    "HeadNormRotary": _head_norm_rotary,
    "SkipRmsNorm": _skip_rms_norm,
}
