"""Check of a `tensorrt` variant without TensorRT: operators, types, names, and profiles for every free size."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Profile, TensorInfo, Variant

from .emit import OPERATORS, OPSET

__all__ = ["check_tensorrt"]

#: Types of TensorRT's `DataType` that a graph may have. TensorRT has no double, and does not cast in strongly typed networks.
TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
    }
)


def check_tensorrt(artifact: Artifact, variant: Variant) -> list[str]:
    """Return the reasons why TensorRT would refuse or split a graph.

    Args:
        artifact: artifact with the graph.
        variant: variant of the target `tensorrt`.

    Returns:
        Problems, one sentence each; empty if the checks find none.
    """
    model = onnx.load(artifact.path / variant.file, load_external_data=False)
    problems = [*_operators(model), *_types(model)]
    for kind, values, infos in (
        ("input", model.graph.input, variant.inputs),
        ("output", model.graph.output, variant.outputs),
    ):
        declared, recorded = [_info(value) for value in values], list(infos)
        if declared != recorded:
            problems.append(f"the graph's {kind}s are {_describe(declared)}, the manifest has {_describe(recorded)}")
    if not variant.profiles:
        problems.append("there are no profiles: an engine would be built for every shape")
    for number, profile in enumerate(variant.profiles):
        problems += [f"profile {number}: {problem}" for problem in _profile(profile, variant.inputs)]
    return problems


def _operators(model: onnx.ModelProto) -> list[str]:
    problems = [
        f"{node.name} is {node.domain or 'ai.onnx'}.{node.op_type}, which TensorRT's parser does not know"
        for node in model.graph.node
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS
    ]
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        problems.append(f"the graph imports {opsets}, not standard operators of version {OPSET} alone")
    return problems


def _types(model: onnx.ModelProto) -> list[str]:
    """Return the values whose type TensorRT does not have, or the node whose types disagree."""
    try:
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        return [f"the types disagree: {error}"]
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    problems = []
    for name in [*types, *(name for node in inferred.node for name in node.output if name not in types)]:
        kind = types.get(name, TensorProto.UNDEFINED)
        if kind not in TYPES:
            problems.append(f"{name} is {TensorProto.DataType.Name(kind).lower()}, which is not a type of TensorRT")
    return problems


def _profile(profile: Profile, inputs: tuple[TensorInfo, ...]) -> list[str]:
    problems: list[str] = []
    free: dict[tuple[str, str], set[int]] = {}
    for info in inputs:
        sides = {"min": profile.min, "opt": profile.opt, "max": profile.max}
        absent = [side for side, shapes in sides.items() if info.name not in shapes]
        if absent:
            if any(isinstance(size, str) for size in info.shape):
                problems.append(f"{info.name} has free sizes and no {', '.join(absent)}")
            continue
        shapes = {side: shapes[info.name] for side, shapes in sides.items()}
        if any(len(shape) != len(info.shape) for shape in shapes.values()):
            problems.append(f"{info.name} has {len(info.shape)} sizes, not {_describe(shapes)}")
            continue
        for place, size in enumerate(info.shape):
            low, best, high = (shapes[side][place] for side in ("min", "opt", "max"))
            if not 1 <= low <= best <= high:
                problems.append(f"{info.name} goes from {low} over {best} to {high}")
            if isinstance(size, int) and {low, best, high} != {size}:
                problems.append(f"{info.name} is {size} in the graph, and {low} to {high} here")
            if isinstance(size, str):
                for side, shape in shapes.items():
                    free.setdefault((size, side), set()).add(shape[place])
    problems += [
        f"{name} is {' and '.join(map(str, sorted(sizes)))} at {side}"
        for (name, side), sizes in free.items()
        if len(sizes) > 1
    ]
    if unknown := sorted({*profile.min, *profile.opt, *profile.max} - {info.name for info in inputs}):
        problems.append(f"{', '.join(unknown)} is not an input")
    return problems


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    shape = tuple(size.dim_param or int(size.dim_value) for size in kind.shape.dim)
    return TensorInfo(value.name, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name, shape)


def _describe(values: object) -> str:
    if isinstance(values, list):
        return ", ".join(f"{info.name} {info.dtype} {list(info.shape)}" for info in values)
    return str(values)
