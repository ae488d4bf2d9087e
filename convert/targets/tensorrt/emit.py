"""Emitter of the target `tensorrt`: standard operators over a padded rectangle, typed values, shapes within the profiles.

Contrib operators would split the graph between TensorRT and CUDA, and TensorRT's parser ignores `nonpad_kv_seqlen` of
`Attention`: so attention is in standard operators (rectangle.py). Since TensorRT 11 the ONNX file alone types a network.
Opset 20 is the oldest with `Gelu`.

The host computes positions and pooling weights; the graph computes the bias of a window, ALiBi or learned distances from
`steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fletcher.runtime.artifact.manifest import FeedRules, Profile, TensorInfo

from ...architecture import Architecture
from ...graph.builder import GraphBuilder
from ...graph.norms import NORMS
from ...precision import FP32, Precision
from ..shared.convolutions import convolve_by_index, input_around, masks_tail
from ..shared.disentangled import emit_lookup, find_disentangled
from ..shared.emission import Emission
from ..shared.encoder import Parts, emit_encoder, position_rows, token_type_rows
from ..shared.positions import emit_positions, has_bias, rotaries_of
from ..shared.rectangle import emit_mask, emit_rectangle_attention, emit_rectangle_decoder, emit_rectangle_pooling
from ..shared.task_adapters import emit_adapted_words

__all__ = ["OPERATORS", "emit_tensorrt"]

OPSET = 20
SHAPE = ("texts", "longest")

#: Operators that are used; all are in the support matrix of NVIDIA's parser (docs/operators.md of onnx/onnx-tensorrt).
OPERATORS = frozenset(
    {
        *(
            "Abs",
            "Add",
            "Cast",
            "Concat",
            "Div",
            "Exp",
            "Gather",
            "GatherElements",
            "Gelu",
            "Greater",
            "Identity",
            NORMS["layer_norm"],
            "Log",
            "MatMul",
        ),
        *(
            "Max",
            "Min",
            "Mul",
            "ReduceMax",
            "ReduceSum",
            "Relu",
            "Reshape",
            "Sigmoid",
            "Slice",
            "Softmax",
            "Split",
            "Sqrt",
            "Squeeze",
            "Sub",
        ),
        *("Tanh", "Transpose", "Unsqueeze"),
    }
)

#: Tokens of the largest rectangle: it bounds the memory, and leaves room for other texts beside the longest one.
MAX_TOKENS = 32_768
#: Most tokens of a text in the first profile: most texts are short, and an engine tuned for 8,192 tokens is slow for 32.
SHORT = 128


def emit_tensorrt(architecture: Architecture, dimension: int, max_tokens: int, precision: Precision = FP32) -> Emission:
    """Emit the graph.

    Args:
        architecture: encoder and modules.
        dimension: length of a vector.
        max_tokens: tokens of the longest text.
        precision: types of the nodes.
    """
    graph = GraphBuilder(f"{architecture.family}-tensorrt", precision, OPSET)
    ids = graph.input(TensorInfo("input_ids", "int32", SHAPE))
    rectangle = emit_mask(graph, SHAPE)
    places = graph.input(TensorInfo("positions", "int32", SHAPE)) if rotaries_of(architecture) else ""
    disentangled = find_disentangled(architecture) is not None
    biased = has_bias(architecture) or disentangled
    steps = graph.input(TensorInfo("steps", "int32", ("longest",))) if biased else ""
    positions = emit_positions(graph, architecture, places, steps, rows_axis=2)
    if disentangled:
        positions = replace(positions, by_distance=emit_lookup(graph, architecture, steps, ids))
    positions = replace(positions, around=input_around(graph, architecture, SHAPE, (0, 0)))
    seen = rectangle.emit_seen_tokens(graph) if masks_tail(architecture) else ""
    learned = architecture.embedding.positions
    parts = Parts(
        word=emit_adapted_words(graph, architecture.embedding, ids, TensorInfo("text_tasks", "int32", SHAPE[:1])),
        position=position_rows(graph, architecture, SHAPE),
        attend=lambda attention, hidden, name, rows: emit_rectangle_attention(
            graph, attention, hidden, rectangle, positions, name, rows
        ),
        pool=lambda mode, hidden, _, name: emit_rectangle_pooling(graph, mode, hidden, rectangle, name),
        token_type=token_type_rows(graph, SHAPE),
        decode=emit_rectangle_decoder,
        convolve=convolve_by_index(graph, architecture, positions.around, seen),
        rows=SHAPE,
    )
    emit_encoder(graph, architecture, parts, "texts", dimension)
    return Emission(
        graph,
        feeds=FeedRules(
            padding_id=None if learned is None else learned.padding_id, unseen_tail=architecture.unseen_tail
        ),
        profiles=_profiles(graph.inputs, max_tokens),
    )


def _profiles(inputs: Sequence[TensorInfo], max_tokens: int) -> tuple[Profile, ...]:
    """Return a profile for short texts in large batches, and one up to the longest text."""
    short = min(SHORT, max_tokens)
    ladders = [((1, 1), (MAX_TOKENS // SHORT // 4, short // 2 or 1), (MAX_TOKENS // SHORT, short))]
    if max_tokens > short:
        most = max(1, MAX_TOKENS // max_tokens)
        ladders.append(((1, 1), (max(1, most // 4), max_tokens // 2), (most, max_tokens)))
    return tuple(
        Profile(*({info.name: _sides(info, side) for info in inputs} for side in ladder)) for ladder in ladders
    )


def _sides(info: TensorInfo, sides: tuple[int, int]) -> tuple[int, ...]:
    texts, longest = sides
    return tuple(side if isinstance(side, int) else {"texts": texts, "longest": longest}[side] for side in info.shape)
