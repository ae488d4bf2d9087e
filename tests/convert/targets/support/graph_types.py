"""Types of every value of a graph, and whether ONNX Runtime has a CUDA kernel for each of its nodes."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, shape_inference

from fletcher.convert.targets.cuda import emit as cuda

from .contrib_operators import spell_out

__all__ = ["SYNCHRONIZING", "assert_kernels", "typed"]

#: Operators for which a runtime waits for the device, or computes on the host during a run: forbidden in graphs for devices.
SYNCHRONIZING = {"NonZero", "Range", "Shape", "Size", "Compress", "Unique", "TopK", "Loop", "If", "RemovePadding"}


def typed(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Return element type and shape of every value by strict inference, which raises if the types of a node disagree."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    types = {info.name: info.type.tensor_type for info in (*inferred.graph.value_info, *inferred.graph.input)}
    types |= {info.name: info.type.tensor_type for info in inferred.graph.output}
    for tensor in model.graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims)).tensor_type
    return types


def assert_kernels(model: onnx.ModelProto) -> None:
    """Check that the list of the target `cuda` has every node with its types, and that no node waits for the device."""
    types = typed(spell_out(model))
    for node in model.graph.node:
        assert (node.domain, node.op_type) in cuda.OPERATORS, node.op_type
        assert node.op_type not in SYNCHRONIZING
        kind = TensorProto.DataType.Name(types[node.input[0]].elem_type).lower()
        assert kind in cuda.OPERATORS[node.domain, node.op_type], f"{node.name}: {node.op_type} of {kind}"
