"""Operators of a device's graph: those of the emitter's list, with the types that the device takes."""

from __future__ import annotations

from typing import Final

import onnx
from onnxruntime.tools.mobile_helpers.usability_checker import check_coreml_partitions

from fletcher.convert.targets.coreml import emit as coreml
from fletcher.convert.targets.cuda import emit as cuda
from fletcher.convert.targets.tensorrt import emit as tensorrt

from .graph_types import assert_kernels, typed

__all__ = ["check_operators"]

#: Domain and name of the operators of each target's list.
LISTED: Final = {
    "cuda": set(cuda.OPERATORS),
    "tensorrt": {("", name) for name in tensorrt.OPERATORS},
    "coreml": {("", name) for name in coreml.OPERATORS},
}


def check_operators(model: onnx.ModelProto, target: str) -> None:
    """Check the operators of a graph for a target, and their types.

    Raises:
        AssertionError: an operator is not in the list, has no kernel, or would split CoreML's graph.
    """
    assert {(node.domain, node.op_type) for node in model.graph.node} <= LISTED[target]
    if target == "cuda":
        assert_kernels(model)
    else:
        typed(model)
    if target == "coreml":
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        info = check_coreml_partitions(inferred, True, "coreml_supported_mlprogram_ops.md")
        assert info.num_partitions == 1 and info.num_supported_nodes == info.num_nodes
