"""The target `cpu`: standard operators over packed tokens, so that padding is never computed.

Every matrix product and norm works on (tokens, hidden), all texts' tokens in a row. Attention alone needs a rectangle: the
packed rows are gathered into (texts, longest, hidden) before it and back after it. Measured on MiniLM (benchmarks/batching):
the rectangle costs nothing that shows where lengths are equal, and ragged batches gain what padding would have cost.

The graph eats `Encodings`: `input_ids` int32 (tokens,) and `offsets` int64 (texts + 1,).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.artifact import TensorInfo

from ..activations import emit_activation
from ..description import Architecture, Attention, Dense, Embedding, FeedForward, Layer, Normalize, Pooling
from ..graph import GraphBuilder
from ..weights import Linear, Norm, concatenate

__all__ = ["emit_cpu"]

#: torch.nn.functional.normalize's epsilon.
NORMALIZE_EPSILON = 1e-12
_END = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class _Layout:
    """Names of the values that say where each token lies.

    Attributes:
        starts: first token of each text, int64, (texts,).
        last: last token of each text, int64, (texts,).
        lengths: tokens of each text, int64, (texts,).
        steps: 0, 1, … longest - 1, int64, (longest,).
        valid: whether a place of the rectangle holds a token, bool, (texts, longest).
        rectangle: the packed row of each place; padding repeats row 0, int64, (texts, longest).
        packed: the place of each packed row in the flattened rectangle, int64, (tokens,).
        positions: position of each token in its text, int64, (tokens,).
    """

    starts: str
    last: str
    lengths: str
    steps: str
    valid: str
    rectangle: str
    packed: str
    positions: str


def emit_cpu(architecture: Architecture, dimension: int) -> GraphBuilder:
    """Writes the graph.

    Args:
        architecture: what to compute.
        dimension: length of a vector.

    Returns:
        A graph with the output `vectors`, float32, (texts, dimension).
    """
    graph = GraphBuilder(f"{architecture.family}-cpu")
    ids = graph.input(TensorInfo("input_ids", "int32", ("tokens",)))
    offsets = graph.input(TensorInfo("offsets", "int64", ("texts_plus_1",)))
    layout = _emit_layout(graph, offsets)
    hidden = _emit_embedding(graph, architecture.embedding, ids, layout)
    for layer in architecture.layers:
        hidden = _emit_layer(graph, layer, hidden, layout)
    if architecture.final_norm is not None:
        hidden = _emit_norm(graph, architecture.final_norm, hidden, "final_norm")
    pooled = _emit_modules(graph, architecture, hidden, layout)
    graph.node("Identity", [pooled], "vectors")
    graph.output(TensorInfo("vectors", "float32", ("texts", dimension)))
    return graph


def _emit_layout(graph: GraphBuilder, offsets: str) -> _Layout:
    zero, one, end = graph.constant([0]), graph.constant([1]), graph.constant([_END])
    first, step = graph.constant(0), graph.constant(1)
    starts = graph.node("Slice", [offsets, zero, graph.constant([-1])], "layout/starts")
    ends = graph.node("Slice", [offsets, one, end], "layout/ends")
    lengths = graph.node("Sub", [ends, starts], "layout/lengths")
    longest = graph.node("ReduceMax", [lengths], "layout/longest", keepdims=0)
    steps = graph.node("Range", [first, longest, step], "layout/steps")
    valid = graph.node(
        "Less", [steps, graph.node("Unsqueeze", [lengths, one], "layout/lengths_column")], "layout/valid"
    )
    column = graph.node("Unsqueeze", [starts, one], "layout/starts_column")
    rows = graph.node("Add", [column, steps], "layout/rows")
    flat = graph.node("Reshape", [valid, graph.constant([-1])], "layout/valid_flat")
    packed = graph.node("Squeeze", [graph.node("NonZero", [flat], "layout/nonzero"), zero], "layout/packed")
    return _Layout(
        starts=starts,
        last=graph.node("Sub", [ends, step], "layout/last"),
        lengths=lengths,
        steps=steps,
        valid=valid,
        rectangle=graph.node("Where", [valid, rows, first], "layout/rectangle"),
        packed=packed,
        positions=graph.node("Mod", [packed, longest], "layout/positions"),
    )


def _emit_embedding(graph: GraphBuilder, embedding: Embedding, ids: str, layout: _Layout) -> str:
    hidden = graph.node("Gather", [graph.weight(embedding.word), ids], "embeddings/word")
    if embedding.token_type is not None:
        hidden = graph.node("Add", [hidden, graph.weight(embedding.token_type)], "embeddings/with_token_type")
    if embedding.positions is not None:
        index = layout.positions
        if embedding.positions.offset:
            index = graph.node("Add", [index, graph.constant(embedding.positions.offset)], "embeddings/position_ids")
        positions = graph.node("Gather", [graph.weight(embedding.positions.table), index], "embeddings/position")
        hidden = graph.node("Add", [hidden, positions], "embeddings/sum")
    if embedding.norm is not None:
        hidden = _emit_norm(graph, embedding.norm, hidden, "embeddings/norm")
    if embedding.projection is not None:
        hidden = _emit_linear(graph, embedding.projection, hidden, "embeddings/projection")
    return hidden


def _emit_layer(graph: GraphBuilder, layer: Layer, hidden: str, layout: _Layout) -> str:
    """norm(x + f(x)), or x + f(norm(x)) for pre-norm."""
    name = layer.name
    attended = hidden
    if layer.norm_first and layer.attention_norm is not None:
        attended = _emit_norm(graph, layer.attention_norm, hidden, f"{name}/attention/norm")
    attended = _emit_attention(graph, layer.attention, attended, layout, f"{name}/attention")
    hidden = graph.node("Add", [attended, hidden], f"{name}/attention/residual")
    if not layer.norm_first and layer.attention_norm is not None:
        hidden = _emit_norm(graph, layer.attention_norm, hidden, f"{name}/attention/norm")
    widened = hidden
    if layer.norm_first:
        widened = _emit_norm(graph, layer.feed_forward_norm, hidden, f"{name}/feed_forward/norm")
    widened = _emit_feed_forward(graph, layer.feed_forward, widened, f"{name}/feed_forward")
    hidden = graph.node("Add", [widened, hidden], f"{name}/feed_forward/residual")
    if not layer.norm_first:
        hidden = _emit_norm(graph, layer.feed_forward_norm, hidden, f"{name}/feed_forward/norm")
    return hidden


def _emit_attention(graph: GraphBuilder, attention: Attention, hidden: str, layout: _Layout, name: str) -> str:
    """Attention(q, k, v) over the rectangle; `nonpad_kv_seqlen` keeps padding out of every softmax."""
    parts = (attention.query, attention.key, attention.value)
    packed = _emit_linear(graph, _side_by_side(parts, f"{name}/qkv"), hidden, f"{name}/qkv")
    rectangle = graph.node("Gather", [packed, layout.rectangle], f"{name}/qkv_rectangle")  # (texts, longest, 3 hidden)
    widths = graph.constant([part.weight.shape[1] for part in parts])
    query, key, value = graph.nodes(
        "Split", [rectangle, widths], f"{name}/split", [f"{name}/{part}" for part in ("query", "key", "value")], axis=-1
    )
    context = graph.node(
        "Attention",
        [query, key, value, "", "", "", layout.lengths],
        f"{name}/context_rectangle",
        q_num_heads=attention.num_heads,
        kv_num_heads=attention.num_heads,
        scale=attention.scale,
    )
    width = attention.output.weight.shape[0]
    flat = graph.node("Reshape", [context, graph.constant([-1, width])], f"{name}/context_flat")
    context = graph.node("Gather", [flat, layout.packed], f"{name}/context")  # (tokens, hidden)
    return _emit_linear(graph, attention.output, context, f"{name}/output")


def _emit_feed_forward(graph: GraphBuilder, part: FeedForward, hidden: str, name: str) -> str:
    up = _emit_linear(graph, part.up, hidden, f"{name}/up")
    if part.gate is None:
        inner = emit_activation(graph, part.activation, up, f"{name}/activation")
    else:
        gate = _emit_linear(graph, part.gate, hidden, f"{name}/gate")
        gate = emit_activation(graph, part.activation, gate, f"{name}/activation")
        inner = graph.node("Mul", [gate, up], f"{name}/gated")
    return _emit_linear(graph, part.down, inner, f"{name}/down")


def _side_by_side(parts: tuple[Linear, ...], name: str) -> Linear:
    """Several products of one input as one, which MLAS runs faster than three small ones."""
    weight = concatenate(f"{name}.weight", [part.weight for part in parts], axis=1)
    biases = [part.bias for part in parts if part.bias is not None]
    if not biases:
        return Linear(weight, None)
    if len(biases) != len(parts):
        raise ValueError(f"{name}: either every part has a bias or none")
    return Linear(weight, concatenate(f"{name}.bias", biases, axis=0))


def _emit_linear(graph: GraphBuilder, linear: Linear, value: str, name: str) -> str:
    if linear.bias is None:
        return graph.node("MatMul", [value, graph.weight(linear.weight)], name)
    product = graph.node("MatMul", [value, graph.weight(linear.weight)], f"{name}/product")
    return graph.node("Add", [product, graph.weight(linear.bias)], name)


def _emit_norm(graph: GraphBuilder, norm: Norm, value: str, name: str) -> str:
    inputs = [value, graph.weight(norm.weight)]
    if norm.bias is not None:
        inputs.append(graph.weight(norm.bias))
    return graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=norm.epsilon)


def _emit_modules(graph: GraphBuilder, architecture: Architecture, hidden: str, layout: _Layout) -> str:
    value = hidden
    for index, module in enumerate(architecture.modules):
        name = f"modules.{index}"
        if isinstance(module, Pooling):
            pooled = [_emit_pooling(graph, mode, value, layout, f"{name}/{mode}") for mode in module.modes]
            value = pooled[0] if len(pooled) == 1 else graph.node("Concat", pooled, f"{name}/pooled", axis=1)
        elif isinstance(module, Dense):
            value = _emit_linear(graph, module.linear, value, f"{name}/dense")
            value = emit_activation(graph, module.activation, value, f"{name}/activation")
        elif isinstance(module, Norm):
            value = _emit_norm(graph, module, value, f"{name}/norm")
        elif isinstance(module, Normalize):
            value = _emit_normalize(graph, value, name)
    return value


def _emit_normalize(graph: GraphBuilder, value: str, name: str) -> str:
    norm = graph.node("ReduceL2", [value, graph.constant([1])], f"{name}/norm", keepdims=1)
    # The operator LpNormalization divides by the norm alone: a zero vector would become NaN.
    norm = graph.node("Max", [norm, graph.constant(NORMALIZE_EPSILON)], f"{name}/norm_floor")
    return graph.node("Div", [value, norm], f"{name}/normalized")


def _emit_pooling(graph: GraphBuilder, mode: PoolingMode, hidden: str, layout: _Layout, name: str) -> str:
    """One vector a text from packed token vectors; every token counts, special ones too, as in sentence-transformers."""
    if mode == "cls":
        return graph.node("Gather", [hidden, layout.starts], name)
    if mode == "lasttoken":
        return graph.node("Gather", [hidden, layout.last], name)
    rectangle = graph.node("Gather", [hidden, layout.rectangle], f"{name}/rectangle")  # (texts, longest, hidden)
    if mode == "max":
        mask = graph.node("Unsqueeze", [layout.valid, graph.constant([2])], f"{name}/mask")
        lowest = graph.constant(float(np.finfo(np.float32).min))
        masked = graph.node("Where", [mask, rectangle, lowest], f"{name}/masked")
        return graph.node("ReduceMax", [masked, graph.constant([1])], name, keepdims=0)
    # The others are weighted sums: (texts, 1, longest) · (texts, longest, hidden).
    weights = graph.node("Cast", [layout.valid], f"{name}/valid", to=1)
    if mode == "weightedmean":
        ramp = graph.node("Add", [layout.steps, graph.constant(1)], f"{name}/ramp")
        weights = graph.node("Mul", [weights, graph.node("Cast", [ramp], f"{name}/ramp_float", to=1)], f"{name}/ramped")
    total = graph.node("ReduceSum", [weights, graph.constant([1])], f"{name}/total", keepdims=1)
    if mode == "mean_sqrt_len_tokens":
        total = graph.node("Sqrt", [total], f"{name}/root")
    weights = graph.node("Div", [weights, total], f"{name}/weights")
    row = graph.node("Unsqueeze", [weights, graph.constant([1])], f"{name}/weights_row")
    summed = graph.node("MatMul", [row, rectangle], f"{name}/sum")
    return graph.node("Squeeze", [summed, graph.constant([1])], name)
