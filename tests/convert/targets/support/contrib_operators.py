"""Replacement of the operators of the domains `com.microsoft` and `fletcher` in cuda graphs by standard operators.

The CPU provider lacks `PackedMultiHeadAttention`, and type inference lacks all of these operators. Source: the contracts in
docs/ContribOperators.md of ONNX Runtime. `token_offset` gives the place of each packed token in the rectangle: first the
places of the tokens, then those of padding. `cumulative_sequence_length` gives the start of each text. Scores of padding do
not count. `attention_bias` is added to scaled scores. One input may hold query, key and value of each head next to each
other; their bias holds all queries, then all keys, then all values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .own_operators import OWN_SPELLINGS

__all__ = ["spell_out"]

#: Operators of this domain that the CPU provider has, too.
ON_THE_CPU = frozenset({"GroupQueryAttention"})


def spell_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the graph without these operators; its values keep their names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    for node in model.graph.node:
        if node.domain == "fletcher":
            nodes.extend(OWN_SPELLINGS[node.op_type](node, constants))
            continue
        if node.domain == "com.microsoft" and node.op_type not in ON_THE_CPU:
            nodes.extend(SPELLINGS[node.op_type](node, constants))
            continue
        if node.domain == "com.microsoft":
            copy.graph.value_info.extend(_types_of(node, model))
            *norms, node = _grouped(node, constants)
            nodes.extend(norms)
        nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(constants.values())
    return copy


def _types_of(node: onnx.NodeProto, model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield the types of the outputs of `GroupQueryAttention`, which are those of its rotary tables."""
    kind = next(tensor.data_type for tensor in model.graph.initializer if tensor.name == node.input[7])
    for value, rank in zip(node.output, (3, 4, 4), strict=True):
        yield helper.make_tensor_value_info(value, kind, [None] * rank)


def _grouped(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Return `GroupQueryAttention` with the norms of heads before it, which the CPU provider's operator lacks."""
    if len(node.input) <= 14:
        return [node]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    packed, query_norm, key_norm, prefix = node.input[0], node.input[14], node.input[15], f"{node.name}/spelled"
    query_heads, key_heads = attributes["num_heads"], attributes["kv_num_heads"]

    def constant(values: list[int]) -> str:
        name = f"spelled/int64/{values}"
        constants[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    heads = [f"{prefix}/{part}_heads" for part in ("query", "key", "value")]
    normed = [f"{prefix}/{part}_normed" for part in ("query", "key")]
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[9:]
    alone.input[0] = f"{prefix}/packed"
    del alone.attribute[:]
    attributes.pop("qk_norm_epsilon")
    alone.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    epsilon = next(helper.get_attribute_value(part) for part in node.attribute if part.name == "qk_norm_epsilon")
    all_heads = query_heads + 2 * key_heads
    sizes = constant([query_heads, key_heads, key_heads])
    return [
        helper.make_node("Reshape", [packed, constant([0, 0, all_heads, -1])], [f"{prefix}/all"], name=f"{prefix}/all"),
        helper.make_node("Split", [f"{prefix}/all", sizes], heads, name=f"{prefix}/split", axis=2),
        *(
            helper.make_node("RMSNormalization", [part, norm], [result], name=result, axis=-1, epsilon=epsilon)
            for part, norm, result in zip(heads, (query_norm, key_norm), normed, strict=False)
        ),
        helper.make_node("Concat", [*normed, heads[2]], [f"{prefix}/joined"], name=f"{prefix}/joined", axis=2),
        helper.make_node(
            "Reshape", [f"{prefix}/joined", constant([0, 0, -1])], [f"{prefix}/packed"], name=f"{prefix}/packed"
        ),
        alone,
    ]


def _attention(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    query, key, value, bias, token_offset, cumulative, *optional = node.input
    prefix, (result,) = f"{node.name}/spelled", node.output

    def constant(values: object, dtype: type[np.generic] = np.int64) -> str:
        array = np.array(values, dtype)
        name = f"spelled/{dtype.__name__}/{values}"
        constants[name] = numpy_helper.from_array(array, name)
        return name

    def make(operator: str, inputs: list[str], name: str, **others: object) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [f"{prefix}/{name}"], name=f"{prefix}/{name}", **others)  # type: ignore[arg-type]

    def at(name: str) -> str:
        return f"{prefix}/{name}"

    # In float32 for every type of graph: attention kernels also accumulate in float32.
    assert bool(key) == bool(value) != bool(bias), (
        "apart and without a bias, or a head's beside each other and with one"
    )
    if key:
        for part, rows in (("query", query), ("key", key), ("value", value)):
            yield make("Cast", [rows], f"{part}/float", to=TensorProto.FLOAT)
    else:  # (tokens, heads · 3 · head_size), and a bias of all queries, then all keys, then all values
        yield make("Cast", [query], "packed", to=TensorProto.FLOAT)
        yield make("Cast", [bias], "biases", to=TensorProto.FLOAT)
        split = constant([0, attributes["num_heads"], 3, -1])
        yield make("Reshape", [at("packed"), split], "packed/heads")
        thirds = [at(f"{part}/third") for part in ("query", "key", "value")]
        yield helper.make_node("Split", [at("packed/heads")], thirds, name=at("thirds"), axis=2, num_outputs=3)
        biases = [at(f"{part}/bias") for part in ("query", "key", "value")]
        yield helper.make_node("Split", [at("biases")], biases, name=at("bias_thirds"), axis=0, num_outputs=3)
        for part in ("query", "key", "value"):
            yield make("Reshape", [at(f"{part}/third"), constant([0, -1])], f"{part}/rows")
            yield make("Add", [at(f"{part}/rows"), at(f"{part}/bias")], f"{part}/float")
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
    if optional and optional[0]:
        yield make("Cast", [optional[0]], "bias", to=TensorProto.FLOAT)
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


def _gelu(node: onnx.NodeProto, _: dict[str, onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of gelu(x + bias): exact, or with tanh as in `FastGelu`."""
    value, bias = node.input
    summed = f"{node.name}/spelled/sum"
    yield helper.make_node("Add", [value, bias], [summed], name=summed)
    approximate = "tanh" if node.op_type == "FastGelu" else "none"
    yield helper.make_node("Gelu", [summed], node.output, name=node.name, approximate=approximate)


def _skip_norm(node: onnx.NodeProto, _: dict[str, onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of norm(x + skip + bias)."""
    value, skip, weight, shift, *bias = node.input
    for index, other in enumerate([skip, *bias]):
        summed = f"{node.name}/spelled/sum.{index}"
        yield helper.make_node("Add", [value, other], [summed], name=summed)
        value = summed
    (epsilon,) = (attribute.f for attribute in node.attribute if attribute.name == "epsilon")
    yield helper.make_node(
        "LayerNormalization", [value, weight, shift], node.output, name=node.name, axis=-1, epsilon=epsilon
    )


SPELLINGS: Mapping[str, Callable[[onnx.NodeProto, dict[str, onnx.TensorProto]], Iterator[onnx.NodeProto]]] = {
    "BiasGelu": _gelu,
    "FastGelu": _gelu,
    "PackedMultiHeadAttention": _attention,
    "SkipLayerNormalization": _skip_norm,
}
