"""`com.microsoft.PackedMultiHeadAttention`, which the CPU provider lacks, spelt out with standard operators.

Written from the operator's contract (docs/ContribOperators.md of ONNX Runtime): `token_offset` says where each packed token
lies in the rectangle, the places of the tokens first and those of padding after them; `cumulative_sequence_length` where each
text begins; scores of padding do not count; `attention_bias` is added to scaled scores.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["spell_out"]

OPERATOR = "PackedMultiHeadAttention"


def spell_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph without that operator; its values keep their names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    for node in model.graph.node:
        if node.op_type == OPERATOR:
            assert node.domain == "com.microsoft"
            nodes.extend(_nodes(node, constants))
        else:
            nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constants.values())
    return copy


def _nodes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    query, key, value, bias, token_offset, cumulative, *rest = node.input
    assert not bias, "a bias of the projections is added before"
    prefix, (result,) = f"{node.name}/spelt", node.output

    def constant(values: object, dtype: type[np.generic] = np.int64) -> str:
        array = np.array(values, dtype)
        name = f"spelt/{dtype.__name__}/{values}"
        constants[name] = numpy_helper.from_array(array, name)
        return name

    def make(operator: str, inputs: list[str], name: str, **others: object) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [f"{prefix}/{name}"], name=f"{prefix}/{name}", **others)  # type: ignore[arg-type]

    def at(name: str) -> str:
        return f"{prefix}/{name}"

    # In float32 whatever the graph's type is: an attention kernel accumulates so, too.
    for part, rows in (("query", query), ("key", key), ("value", value)):
        yield make("Cast", [rows], f"{part}/float", to=TensorProto.FLOAT)
    yield make("Shape", [at("query/float")], "shape")
    yield make("Slice", [at("shape"), constant([0]), constant([1])], "tokens")
    yield make("Slice", [at("shape"), constant([1]), constant([2])], "width")
    yield make("Shape", [token_offset], "sides")
    yield make("Slice", [at("sides"), constant([1]), constant([2])], "longest")
    yield make("ReduceProd", [at("sides")], "places", keepdims=1)
    yield make("Reshape", [token_offset, constant([-1])], "all_places")
    yield make("Slice", [at("all_places"), constant([0]), at("tokens")], "token_places_int32")
    yield make("Cast", [at("token_places_int32")], "token_places", to=TensorProto.INT64)
    yield make("Unsqueeze", [at("token_places"), constant([1])], "token_rows")
    yield make("Concat", [at("places"), at("width")], "flat_shape", axis=0)
    yield make(
        "ConstantOfShape", [at("flat_shape")], "zeros", value=numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    )
    heads = constant([attributes["num_heads"]])
    yield make("Concat", [at("sides"), heads, constant([-1])], "heads_shape", axis=0)
    for part in ("query", "key", "value"):
        yield make("ScatterND", [at("zeros"), at("token_rows"), at(f"{part}/float")], f"{part}/flat")
        yield make("Reshape", [at(f"{part}/flat"), at("heads_shape")], f"{part}/split")
        perm = (0, 2, 3, 1) if part == "key" else (0, 2, 1, 3)
        yield make("Transpose", [at(f"{part}/split")], f"{part}/heads", perm=perm)
    yield make("MatMul", [at("query/heads"), at("key/heads")], "raw")
    yield make("Mul", [at("raw"), constant(attributes["scale"], np.float32)], "scores")
    last = "scores"
    if rest and rest[0]:
        yield make("Cast", [rest[0]], "bias", to=TensorProto.FLOAT)
        yield make("Add", [at("scores"), at("bias")], "biased")
        last = "biased"
    yield make("Slice", [cumulative, constant([0]), constant([-1])], "starts")
    yield make("Slice", [cumulative, constant([1]), constant([2**31 - 1])], "ends")
    yield make("Sub", [at("ends"), at("starts")], "lengths_int32")
    yield make("Cast", [at("lengths_int32")], "lengths", to=TensorProto.INT64)
    yield make("Unsqueeze", [at("lengths"), constant([1, 2, 3])], "lengths_4d")
    yield make("Squeeze", [at("longest")], "longest_scalar")
    yield make("Range", [constant(0), at("longest_scalar"), constant(1)], "steps")
    yield make("Less", [at("steps"), at("lengths_4d")], "seen")  # (texts, 1, 1, longest)
    yield make("Where", [at("seen"), at(last), constant(-1e30, np.float32)], "masked")
    yield make("Softmax", [at("masked")], "weights", axis=-1)
    yield make("MatMul", [at("weights"), at("value/heads")], "context/heads")
    yield make("Transpose", [at("context/heads")], "context/split", perm=(0, 2, 1, 3))
    yield make("Concat", [constant([-1]), at("width")], "context_shape", axis=0)
    yield make("Reshape", [at("context/split"), at("context_shape")], "context/flat")
    yield make("Gather", [at("context/flat"), at("token_places")], "context")
    yield helper.make_node("CastLike", [at("context"), query], [result], name=node.name)
