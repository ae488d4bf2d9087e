"""Emitter of the target `cuda`: packed tokens from end to end, attention over offsets, and all indices computed by the host.

`com.microsoft.PackedMultiHeadAttention` runs flash attention over the packed rows of all texts; `cumulative_sequence_length`
holds the first row of each text. There is no rectangle and no padding between the token ids and the pooling. No shape depends
on a value that only the device has (no NonZero, no Range, no shape arithmetic), so that the host never waits for the device
and a CUDA graph can be captured.

`OPERATORS` are the operators of the graphs, each with the types of its CUDA kernel. Sources: ONNX Runtime's
docs/OperatorKernels.md (at commit 001d12d2), and contrib_ops/cuda/bert/packed_multihead_attention.cc: flash attention without
a bias; with one, CUTLASS's if the rectangle's width is a multiple of four times an element's bytes (8 in half types, 16 in
float32), else an unfused kernel. So the host rounds the width up for graphs with a bias. The kernel has no bfloat16: the
attention of bf16 graphs is in fp16. Causal models in half precision have another operator (causal.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from onnx import TensorProto

from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.artifact.graph.operators import FLETCHER
from fletcher.runtime.artifact.manifest import HALF_VECTORS, FeedRules, TensorInfo

from ...architecture import Architecture, Attention, EmbeddingGate, FeedForward, GlobalFirst
from ...graph.activations import TANH_GELUS
from ...graph.builder import GraphBuilder
from ...graph.norms import MICROSOFT, NORMS, SUMMED_NORMS
from ...precision import FP32, Precision
from ..shared.blocks import emit_feed_forward, emit_linear
from ..shared.convolutions import convolve_by_index, emit_span_convolution, input_around, masks_tail
from ..shared.disentangled import emit_by_distance, emit_lookup, find_disentangled
from ..shared.emission import Emission
from ..shared.encoder import PARTS, Parts, emit_encoder, position_rows, token_type_rows
from ..shared.global_first import emit_first_context
from ..shared.pooling import PooledRows, emit_weighted_sum, take_context
from ..shared.positions import Positions, bias_key, emit_positions, has_bias, rotaries_of
from ..shared.rectangle import emit_mask
from ..shared.task_adapters import emit_adapted_words
from .causal import emit_causal, is_causal
from .kernels import Kernels, named_attentions
from .layers import emit_cuda_layer, emit_cuda_sum
from .projections import emit_qkv, emit_wide_tables

__all__ = ["OPERATORS", "emit_cuda"]

_ALL = frozenset({"float", "float16", "bfloat16", "int32", "int64", "bool"})
_FLOATS = frozenset({"float", "float16", "bfloat16"})
_HALVES = frozenset({"float16", "bfloat16"})
_NUMBERS = frozenset({"float", "float16", "bfloat16", "int32", "int64"})

#: Domain and operator to the element types of its first input for which ONNX Runtime has a CUDA kernel (opset 24).
OPERATORS: Mapping[tuple[str, str], frozenset[str]] = MappingProxyType(
    {
        ("", "Abs"): _NUMBERS,
        ("", "Add"): _NUMBERS,
        ("", "Attention"): _FLOATS,
        ("", "Cast"): _ALL,
        ("", "Concat"): _ALL,
        ("", "Div"): _NUMBERS,
        ("", "Exp"): frozenset({"float", "float16"}),
        ("", "Gather"): _ALL,
        ("", "GatherElements"): _ALL,
        ("", "Gelu"): _FLOATS,
        ("", "Gemm"): _FLOATS,
        ("", "Greater"): frozenset({"float", "float16", "int32", "int64"}),
        ("", "Identity"): _ALL,
        **{("", operator): _FLOATS for operator in NORMS.values()},
        ("", "Log"): frozenset({"float", "float16"}),
        ("", "MatMul"): _FLOATS,
        ("", "Max"): _NUMBERS,
        ("", "Min"): _NUMBERS,
        ("", "Mul"): _NUMBERS,
        ("", "ReduceMax"): frozenset({"float", "float16", "int32", "int64"}),
        ("", "ReduceSum"): _NUMBERS,
        ("", "Relu"): _FLOATS,
        ("", "Reshape"): _ALL,
        ("", "RotaryEmbedding"): _FLOATS,
        ("", "Sigmoid"): _FLOATS,
        ("", "Slice"): _ALL,
        ("", "Softmax"): _FLOATS,
        ("", "Split"): _ALL,
        ("", "Sqrt"): _FLOATS,
        ("", "Squeeze"): _ALL,
        ("", "Sub"): _NUMBERS,
        ("", "Tanh"): _FLOATS,
        ("", "Transpose"): _ALL,
        ("", "Unsqueeze"): _ALL,
        (MICROSOFT, "BiasGelu"): frozenset({"float", "float16"}),
        (MICROSOFT, "FastGelu"): frozenset({"float", "float16"}),
        (MICROSOFT, "GroupQueryAttention"): _HALVES,
        (MICROSOFT, "PackedMultiHeadAttention"): frozenset({"float", "float16"}),
        **{(FLETCHER, operator): _HALVES for operator in ("GatedActivation", "HeadNormRotary", "SkipRmsNorm")},
        **{(MICROSOFT, operator): frozenset({"float", "float16"}) for operator in SUMMED_NORMS.values()},
    }
)


def emit_cuda(
    architecture: Architecture, dimension: int, precision: Precision = FP32, *, with_kernels: bool = False
) -> Emission:
    """Emit the graph.

    Args:
        architecture: encoder and modules.
        dimension: length of a vector.
        precision: types of the nodes.
        with_kernels: whether the graph has Fletcher's own operators where they can compute a part, in fp16 or bf16.
    """
    kernels = Kernels(precision) if with_kernels else None
    if precision.arithmetic == "fp16":
        precision = replace(precision, islands=precision.islands | _inexact_gates(architecture))
    if is_causal(architecture, precision):
        return emit_causal(architecture, dimension, precision, kernels)
    if precision.arithmetic == "bf16":
        precision = replace(precision, operators={"PackedMultiHeadAttention": "fp16"})
    graph = GraphBuilder(f"{architecture.family}-cuda", precision)
    ids = graph.input(TensorInfo("input_ids", "int32", ("tokens",)))
    token_offset = graph.input(TensorInfo("token_offset", "int32", ("texts", "longest")))
    cumulative = graph.input(TensorInfo("cumulative_sequence_length", "int32", ("texts_plus_1",)))
    disentangled = find_disentangled(architecture) is not None
    biased = has_bias(architecture) or architecture.unseen_tail is not None or disentangled
    packed = graph.input(TensorInfo("positions", "int32", ("tokens",))) if rotaries_of(architecture) else ""
    steps = graph.input(TensorInfo("steps", "int32", ("longest",))) if biased else ""
    own = frozenset[str]() if kernels is None else kernels.find_heads(architecture, causal=False)
    others = [attention for name, attention in named_attentions(architecture) if name not in own]
    rotaries = {attention.rotary.name: attention.rotary for attention in others if attention.rotary is not None}
    positions = emit_positions(graph, architecture, packed, steps, rotaries=rotaries)
    if disentangled:
        positions = replace(positions, by_distance=emit_lookup(graph, architecture, steps, token_offset))
    if architecture.unseen_tail is not None:
        positions = _emit_unseen(graph, architecture, positions, steps)

    positions = replace(positions, around=input_around(graph, architecture, ("tokens",), (0,)))
    mask = ""
    if any(attention.first is not None for attention in architecture.attentions):
        mask = emit_mask(graph, ("texts", "longest")).scores_mask
    wide = emit_wide_tables(graph, others, positions)

    def attend(attention: Attention, hidden: str, name: str, rows: PooledRows | None) -> str:
        """Add the attention over packed rows up to its context, (tokens, heads · head_size), or its pooled rows."""
        if kernels is not None and name in own:
            heads = kernels.emit_heads(
                graph,
                attention,
                hidden,
                name,
                num_positions=architecture.max_positions,
                repeats=attention.num_heads // attention.num_kv_heads,
                positions=packed,
            )
            qkv = [*heads, ""]
        else:
            qkv = emit_qkv(graph, attention, hidden, positions, wide, name)
        bias = positions.bias_of(attention)
        if positions.by_distance is not None:
            bias = _emit_by_distance(graph, attention, (qkv[0], qkv[1]), positions, name)
        around = None if attention.convolution is None else positions.around
        plain = around is None and attention.first is None
        result = graph.node(
            "PackedMultiHeadAttention",
            [*qkv, token_offset, cumulative, bias],
            f"{name}/context" if plain else f"{name}/self_context",
            domain=MICROSOFT,
            num_heads=attention.num_heads,
            scale=attention.scale,
        )
        if attention.first is not None:
            result = _emit_with_first(graph, attention, attention.first, (hidden, result), mask, name)
        if around is not None:
            convolved = emit_span_convolution(graph, attention, hidden, qkv[0], around, name)
            result = graph.node("Concat", [result, convolved], f"{name}/context", axis=-1)
        return take_context(rows, attention, result, name)

    seen = _emit_seen_tokens(graph) if masks_tail(architecture) else ""
    parts = Parts(
        word=emit_adapted_words(graph, architecture.embedding, ids, TensorInfo("task_ids", "int32", ("tokens",))),
        position=position_rows(graph, architecture, ("tokens",)),
        attend=attend,
        pool=lambda mode, hidden, _, name: _emit_pooling(graph, mode, hidden, name),
        token_type=token_type_rows(graph, ("tokens",)),
        sum=lambda embedding, parts: emit_cuda_sum(graph, embedding, parts),
        feed_forward=emit_feed_forward if kernels is None else kernels.emit_feed_forward,
        layer=lambda layer, hidden, rows: emit_cuda_layer(graph, layer, hidden, attend, rows, kernels),
        convolve=convolve_by_index(graph, architecture, positions.around, seen),
    )
    emit_encoder(graph, architecture, parts, "texts", dimension)
    if architecture.output == "vectors":
        graph.node("Cast", ["vectors"], HALF_VECTORS, to=TensorProto.FLOAT16)
        graph.output(TensorInfo(HALF_VECTORS, "float16", ("texts", dimension)))
    if kernels is not None:
        kernels.join_sums(graph)
    learned = architecture.embedding.positions
    feeds = FeedRules(
        padding_id=None if learned is None else learned.padding_id,
        multiple=1 if not biased else 16 if precision.arithmetic == "fp32" else 8,
        unseen_tail=architecture.unseen_tail,
    )
    return Emission(graph, feeds=feeds, gaps=() if kernels is None else tuple(kernels.gaps))


def _emit_seen_tokens(graph: GraphBuilder) -> str:
    """Add 1 for each token before its text's unseen tail, else 0, (tokens, 1)."""
    flags = graph.input(TensorInfo("seen_tokens", "int32", ("tokens",)))
    seen = graph.node("Cast", [flags], "tail/seen", to=1)
    return graph.node("Unsqueeze", [seen, graph.constant([1])], "tail/seen_tokens")


def _inexact_gates(architecture: Architecture) -> frozenset[str]:
    """Return the names of the nodes of gates with a GELU by tanh, whose kernel in float16 is not exact enough for a product.

    Its error is about 2e-4 · |x|, which is a third of the value at x = -3; an H200 gave a random Gemma a cosine of 0.996.
    """
    return frozenset(
        f"{layer.name}/{PARTS[type(core)]}/activation"
        for layer in architecture.layers
        for core in (block.core for block in layer.blocks)
        if isinstance(core, EmbeddingGate) or (isinstance(core, FeedForward) and core.gate is not None)
        if core.activation in TANH_GELUS
    )


def _emit_unseen(graph: GraphBuilder, architecture: Architecture, positions: Positions, steps: str) -> Positions:
    """Mask the tokens of the unseen tail by the operator's bias, the only value that it adds to scores."""
    mask = emit_mask(graph, ("texts", "longest")).scores_mask  # (texts, 1, 1, longest)
    # The operator broadcasts a bias over texts and heads, but not over the attending tokens: add zeros for each of them.
    zeros = graph.node("Cast", [steps], "mask/steps", to=1)
    zeros = graph.node("Mul", [zeros, graph.constant(0.0)], "mask/zeros")
    zeros = graph.node("Unsqueeze", [zeros, graph.constant([1])], "mask/rows")  # (longest, 1)
    square = graph.node("Add", [mask, zeros], "mask/square")  # (texts, 1, longest, longest)
    biases = {bias_key(attention): "" for attention in architecture.attentions} | dict(positions.biases)
    return Positions(
        positions.tables,
        {
            key: graph.node("Add", [bias, square], f"mask/bias.{index}") if bias else square
            for index, (key, bias) in enumerate(biases.items())
        },
        positions.by_distance,
    )


def _emit_with_first(
    graph: GraphBuilder, attention: Attention, first: GlobalFirst, states: tuple[str, str], mask: str, name: str
) -> str:
    """Add the contexts with those of the first tokens, which attend to the rectangle of their text, (tokens, width).

    Args:
        graph: graph to add to.
        attention: description of the attention.
        first: its global attention.
        states: hidden states, and contexts of the window, of the packed tokens.
        mask: number added to the scores, (texts, 1, 1, longest).
        name: name of the attention.
    """
    hidden, local = states
    index = graph.input(TensorInfo("rectangle", "int32", ("texts", "longest")))
    starts = graph.input(TensorInfo("pooling.cls", "int32", ("texts",)))
    places = graph.input(TensorInfo("first_rows", "int32", ("tokens",)))
    state = graph.node("Gather", [hidden, starts], f"{name}/first/states")
    state = graph.node("Unsqueeze", [state, graph.constant([1])], f"{name}/first/hidden")
    rows = []
    for part, linear in (("key", first.key), ("value", first.value)):
        packed = emit_linear(graph, linear, hidden, f"{name}/first/{part}")
        rows.append(graph.node("Gather", [packed, index], f"{name}/first/{part}_rows"))
    context = emit_first_context(graph, attention, first, state, (rows[0], rows[1]), mask, name)
    context = graph.node("Squeeze", [context, graph.constant([1])], f"{name}/first/flat")
    behind = graph.node("Concat", [local, context], f"{name}/first/behind", axis=0)
    return graph.node("Gather", [behind, places], f"{name}/context")


def _emit_by_distance(
    graph: GraphBuilder, attention: Attention, packed: tuple[str, str], positions: Positions, name: str
) -> str:
    """Add scores by content and distance, and the layer's other bias, (texts, heads, longest, longest)."""
    assert positions.by_distance is not None
    index = graph.input(TensorInfo("rectangle", "int32", ("texts", "longest")))
    sizes = graph.constant([0, 0, attention.num_heads, attention.head_size])
    heads = []
    for part, rows in zip(("query", "key"), packed, strict=True):
        rectangle = graph.node("Gather", [rows, index], f"{name}/{part}_rectangle")
        split = graph.node("Reshape", [rectangle, sizes], f"{name}/{part}_split")
        heads.append(graph.node("Transpose", [split], f"{name}/{part}_heads", perm=(0, 2, 1, 3)))
    bias = emit_by_distance(graph, attention, (heads[0], heads[1]), positions.by_distance, name)
    other = positions.bias_of(attention)
    return graph.node("Add", [bias, other], f"{name}/whole_bias") if other else bias


def _emit_pooling(graph: GraphBuilder, mode: PoolingMode, hidden: str, name: str) -> str:
    """Add one vector per text: rows that the host chose, or a sum over a rectangle with the host's weights."""
    if mode in ("cls", "lasttoken"):
        rows = graph.input(TensorInfo(f"pooling.{mode}", "int32", ("texts",)))
        return graph.node("Gather", [hidden, rows], name)
    index = graph.input(TensorInfo("rectangle", "int32", ("texts", "longest")))
    rectangle = graph.node("Gather", [hidden, index], f"{name}/rectangle")  # (texts, longest, hidden)
    if mode == "max":  # padding repeats a token of the text, which changes no maximum
        return graph.node("ReduceMax", [rectangle, graph.constant([1])], name, keepdims=0)
    weights = graph.input(TensorInfo(f"pooling.{mode}", "float32", ("texts", "longest")))
    return emit_weighted_sum(graph, weights, rectangle, name)
