"""Simulation of a device's half precision: every node in float32, its result rounded to the node's type.

ONNX Runtime's CPU provider also runs fp16 graphs in float32, but it casts only where a node requires it, so that values stay
unrounded over several nodes, and it does not support bfloat16. A graph that this module rewrites rounds after each node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

__all__ = ["RoundingGraph", "round_every_node"]

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def round_every_node(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the graph that computes in float32, and rounds the outputs of each node of a half type."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    infos = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in infos}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    widened: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Cast":
            nodes.append(node)
            continue
        for value in node.input:
            if types.get(value) in HALVES and value not in widened:
                widened.add(value)
                nodes.append(helper.make_node("Cast", [value], [f"{value}#wide"], to=TensorProto.FLOAT))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [f"{value}#wide" if value in widened else value for value in node.input]
        halves = [value for value in node.output if types[value] in HALVES]
        copy.output[:] = [f"{value}#exact" if value in halves else value for value in node.output]
        nodes.append(copy)
        nodes += [helper.make_node("Cast", [f"{value}#exact"], [value], to=types[value]) for value in halves]
    del rounded.graph.node[:], rounded.graph.value_info[:]
    rounded.graph.node.extend(nodes)
    return rounded


class RoundingGraph:
    """Session of a rounding graph, loaded without optimization, which could remove casts."""

    def __init__(self, model: onnx.ModelProto, weights_folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights_folder))
        self._session = onnxruntime.InferenceSession(
            round_every_node(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: list[str]) -> list[NDArray[Any]]:
        return [np.asarray(value) for value in self._session.run(outputs, dict(feeds))]
