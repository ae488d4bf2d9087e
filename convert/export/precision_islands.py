"""Islands of fp32: nodes whose values half precision cannot hold, found by the largest values recorded on texts.

The recorded graph is that of the target `tensorrt` in fp32: it has every value that any target has, raw scores and padding
included. Rows of padding must not overflow either, because 0 times infinity is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fletcher.runtime.encodings import Encodings
from fletcher.runtime.session.feeds import make_feeds

from ..graph.norms import NORMS
from ..precision import FLOATS, RMS_STEPS, Float, is_fp32_step
from ..targets.shared.emission import Emission
from .pieces import LARGE, compute_in_pieces

__all__ = ["MARGIN", "SQUARES", "find_islands", "record_maxima"]

#: Factor by which other texts may have larger values than the recorded ones.
MARGIN = 4.0
#: Suffix of a norm's name for the largest sum of squares of a row that it norms.
SQUARES = "#squares"
#: Masks, and scores to which masks are added, by the start and by the end of their names. A mask of an fp32 graph is -1e30,
#: that of a half type -1e4, so that what they hide does not count: elements below `FLOOR` are recorded as `FLOOR`.
MASKS = ("mask/", "positions/")
MASKED = ("/biased_scores", "/masked_scores")
FLOOR = -5e3
#: Most texts in a recorded batch, and most of its tokens, padding included. A text with more tokens is a batch of its own.
TEXTS = 8
TOKENS = 1024
#: Most tokens of a recorded batch, and of a text, of a large model: all values of a piece are in memory until its end.
FEW_TOKENS = 512
#: Names of the nodes inside an attention on other targets.
ATTENTION_CORE = (
    "context",
    *(f"{part}/{step}" for part in ("query", "key") for step in ("batch", "rotated_batch", "rotated")),
)


def record_maxima(emission: Emission, model: onnx.ModelProto, texts: Encodings) -> dict[str, float]:
    """Run a graph, and record the largest absolute element of each float value.

    Args:
        emission: description of the graph, with its weights.
        model: the graph, fp32.
        texts: texts to run it on; long ones are cut for a large model.

    Returns:
        Maxima by value; for each norm also the largest sum of squares of a row that it norms, as `NAME#squares`.
    """
    recorder, outputs = _with_maxima(model, list(emission.graph.float_values))
    is_large = 4 * sum(math.prod(weight.shape) for weight in emission.graph.weights.values()) >= LARGE
    tokens = FEW_TOKENS if is_large else TOKENS
    if is_large:
        rows = np.split(texts.ids, texts.offsets[1:-1])
        texts = Encodings.from_lists([row[:FEW_TOKENS] for row in rows])
    feeds = [
        make_feeds(tuple(emission.graph.inputs), emission.feeds, texts.select(np.array(rows, np.int64)))
        for rows in _batches(texts.lengths.tolist(), tokens)
    ]
    found = compute_in_pieces(recorder, emission.graph.weights, feeds, list(outputs.values()))
    maxima = {name: max(0.0, *(float(batch[output]) for batch in found)) for name, output in outputs.items()}
    return {name: float(f"{value:.4g}") for name, value in maxima.items()}


def _batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Return the rows of each batch, short texts first."""
    batches: list[list[int]] = [[]]
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        count = len(batches[-1])
        if count == TEXTS or (count and (count + 1) * lengths[row] > tokens):
            batches.append([])
        batches[-1].append(row)
    return batches


def find_islands(model: onnx.ModelProto, maxima: Mapping[str, float], precision: Float) -> frozenset[str]:
    """Return the nodes of the encoder that must compute in fp32.

    A node must if one of its inputs or outputs, times `MARGIN`, is outside the type's range; a norm also if the sum of a
    row's squares is. bf16 has the range of fp32, so only attention is checked there: some of its kernels exist for fp16
    alone.
    """
    limit = min(FLOATS["fp16"].largest, FLOATS[precision].largest) / MARGIN
    islands = set()
    for node in model.graph.node:
        values = [*node.input, *node.output, f"{node.name}{SQUARES}"]
        # The steps of an RMS norm are fp32 in any case; on other targets it is one node, which computes in fp32 inside.
        if any(maxima.get(value, 0.0) > limit for value in values if not is_fp32_step(value)):
            islands.add(node.name.partition(RMS_STEPS)[0])
            layer, separator, part = node.name.partition("/attention/")
            if separator and part.startswith(("query", "key", "value", "scores", "biased", "masked", "context")):
                islands.update(f"{layer}/attention/{name}" for name in ATTENTION_CORE)
    if precision == "bf16":
        islands = {name for name in islands if name.endswith("/attention/context")}
    return frozenset(islands)


def _with_maxima(model: onnx.ModelProto, values: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy of the graph that computes maxima, and the names of its outputs by value."""
    recorder = onnx.ModelProto()
    recorder.CopyFrom(model)
    del recorder.graph.node[:]
    recorded = set(values)
    outputs = {}

    def add(name: str, operator: str, inputs: list[str], **attributes: Any) -> None:
        outputs[name] = f"{name}#max"
        recorder.graph.node.append(helper.make_node(operator, inputs, [f"{name}#of"], **attributes))
        recorder.graph.node.append(helper.make_node("ReduceMax", [f"{name}#of"], [outputs[name]], keepdims=0))

    for node in model.graph.node:  # a value's maximum follows its node, so that both are in one piece
        if node.op_type in NORMS.values():
            add(f"{node.name}{SQUARES}", "ReduceSumSquare", [node.input[0], "#last"], keepdims=0)
        recorder.graph.node.append(node)
        for value in recorded.intersection(node.output):
            seen = value
            if value.startswith(MASKS) or value.endswith(MASKED):
                seen = f"{value}#seen"
                recorder.graph.node.append(helper.make_node("Max", [value, "#floor"], [seen]))
            add(value, "Abs", [seen])
    recorder.graph.initializer.append(helper.make_tensor("#last", TensorProto.INT64, [1], [-1]))
    recorder.graph.initializer.append(helper.make_tensor("#floor", TensorProto.FLOAT, [], [FLOOR]))
    recorder.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs.values()
    )
    return recorder, outputs
