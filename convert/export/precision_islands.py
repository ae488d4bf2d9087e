"""Which nodes half precision cannot hold: largest values recorded on texts, and the fp32 islands that they demand.

The fp32 graph of the target `tensorrt` is recorded, since it has every value that any target has, raw scores included, and
padding too, whose rows must not overflow either: 0 times infinity is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

from ..graph.norms import NORMS
from ..precision import FLOATS, Float
from ..targets.shared.emission import Emission

__all__ = ["MARGIN", "SQUARES", "find_islands", "record_maxima"]

#: Other texts may have larger values than the recorded ones by this factor.
MARGIN = 4.0
#: After a LayerNormalization's name: the largest sum of squares of a row that it norms.
SQUARES = "#squares"
#: Texts that are recorded at once.
TEXTS = 8
#: What other targets call the inside of an attention.
ATTENTION_CORE = (
    "context",
    *(f"{part}/{step}" for part in ("query", "key") for step in ("batch", "rotated_batch", "rotated")),
)


def record_maxima(emission: Emission, model: onnx.ModelProto, weights: Path, texts: Encodings) -> dict[str, float]:
    """Runs a graph, and takes the largest absolute element of each float value that it computes.

    Args:
        emission: what the graph is.
        model: the graph itself, fp32.
        weights: the folder of its weights.
        texts: what to run it on.

    Returns:
        By value; for each LayerNormalization also the largest sum of squares of a row that it norms, as `NAME#squares`.
    """
    recorder, outputs = _with_maxima(model, list(emission.graph.float_values))
    graph = CpuGraph(recorder.SerializeToString(), weights)
    maxima = dict.fromkeys(outputs, 0.0)
    order = sorted(range(len(texts)), key=lambda row: int(texts.lengths[row]))
    for start in range(0, len(order), TEXTS):
        batch = texts.select(np.array(order[start : start + TEXTS], np.int64))
        found = graph.run(make_feeds(tuple(emission.graph.inputs), emission.feeds, batch), list(outputs.values()))
        for name, value in zip(outputs, found, strict=True):
            maxima[name] = max(maxima[name], float(value))
    return {name: float(f"{value:.4g}") for name, value in maxima.items()}


def find_islands(model: onnx.ModelProto, maxima: Mapping[str, float], precision: Float) -> frozenset[str]:
    """Nodes of the encoder that must compute in fp32.

    A node does if something that it takes or gives, times `MARGIN`, is more than the type holds, and a LayerNormalization
    does, too, if the sum of a row's squares is. In bf16, which holds what fp32 holds, only attention is looked at: some of
    its kernels know fp16 alone.
    """
    limit = min(FLOATS["fp16"].largest, FLOATS[precision].largest) / MARGIN
    islands = set()
    for node in model.graph.node:
        values = [*node.input, *node.output, f"{node.name}{SQUARES}"]
        if any(maxima.get(value, 0.0) > limit for value in values):
            islands.add(node.name)
            layer, separator, part = node.name.partition("/attention/")
            if separator and part.startswith(("query", "key", "value", "scores", "biased", "masked", "context")):
                islands.update(f"{layer}/attention/{name}" for name in ATTENTION_CORE)
    if precision == "bf16":
        islands = {name for name in islands if name.endswith("/attention/context")}
    return frozenset(islands)


def _with_maxima(model: onnx.ModelProto, values: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of the graph that gives maxima: the model, and its outputs by what they are the maximum of."""
    recorder = onnx.ModelProto()
    recorder.CopyFrom(model)
    outputs = {}
    sources = {value: helper.make_node("Abs", [value], [f"{value}#of"]) for value in values}
    for node in model.graph.node:
        if node.op_type in NORMS.values():
            name = f"{node.name}{SQUARES}"
            sources[name] = helper.make_node("ReduceSumSquare", [node.input[0], "#last"], [f"{name}#of"], keepdims=0)
    for name, source in sources.items():
        recorder.graph.node.append(source)
        outputs[name] = f"{name}#max"
        recorder.graph.node.append(helper.make_node("ReduceMax", [f"{name}#of"], [outputs[name]], keepdims=0))
    recorder.graph.initializer.append(helper.make_tensor("#last", TensorProto.INT64, [1], [-1]))
    recorder.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs.values()
    )
    return recorder, outputs
