"""Judgment of a graph by onnx's own parser: it has nothing that is forbidden."""

from __future__ import annotations

import onnx

from fletcher.runtime.artifact.graph.operators import allowed_operators
from fletcher.runtime.artifact.manifest import Variant

__all__ = ["assert_harmless"]


def assert_harmless(data: bytes, variant: Variant, size: int) -> None:
    """Judge an accepted graph with onnx's parser."""
    model = onnx.load_model_from_string(data)
    assert not model.functions and not model.metadata_props and not model.training_info
    assert not model.graph.sparse_initializer and not model.graph.metadata_props
    allowed = allowed_operators(variant)
    for node in model.graph.node:
        assert (node.domain, node.op_type) in allowed
        for attribute in node.attribute:
            assert not attribute.HasField("g") and not attribute.graphs and not attribute.tensors
            assert not attribute.HasField("sparse_tensor") and not attribute.t.external_data
            assert not attribute.ref_attr_name and attribute.t.data_location == onnx.TensorProto.DEFAULT
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            assert not place
            continue
        assert len(place) == len(tensor.external_data) == 3
        assert place["location"] == variant.weights
        assert 0 <= int(place["offset"]) <= int(place["offset"]) + int(place["length"]) <= size
