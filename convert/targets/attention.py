"""Attention from packed tokens to packed tokens, through a rectangle of texts."""

from __future__ import annotations

from ..description import Attention, Rotary
from ..graph import GraphBuilder
from ..weights import Norm
from .blocks import emit_linear, emit_norm, side_by_side
from .layout import Layout
from .positions import Positions

__all__ = ["emit_attention"]


def emit_attention(
    graph: GraphBuilder, attention: Attention, hidden: str, layout: Layout, positions: Positions, name: str
) -> str:
    """Attention(q, k, v) over the rectangle; `nonpad_kv_seqlen` keeps padding out of every softmax.

    Whatever is done to a single query, key or value (norm, rotation) is done to packed rows, before padding exists.
    """
    parts = (attention.query, attention.key, attention.value)
    packed = emit_linear(graph, side_by_side(parts, f"{name}/qkv"), hidden, f"{name}/qkv")
    widths = graph.constant([part.weight.shape[1] for part in parts])
    query, key, value = graph.nodes(
        "Split", [packed, widths], f"{name}/split", [f"{name}/{part}" for part in ("query", "key", "value")], axis=-1
    )  # each (tokens, hidden)
    query = _emit_turned(graph, attention, attention.query_norm, query, positions, f"{name}/query")
    key = _emit_turned(graph, attention, attention.key_norm, key, positions, f"{name}/key")
    rectangles = [
        graph.node("Gather", [rows, layout.rectangle], f"{name}/{part}_rectangle")  # (texts, longest, hidden)
        for part, rows in (("query", query), ("key", key), ("value", value))
    ]
    context = graph.node(
        "Attention",
        [*rectangles, positions.bias_of(attention), "", "", layout.lengths],
        f"{name}/context_rectangle",
        q_num_heads=attention.num_heads,
        kv_num_heads=attention.num_heads,
        scale=attention.scale,
    )
    width = attention.output.weight.shape[0]
    flat = graph.node("Reshape", [context, graph.constant([-1, width])], f"{name}/context_flat")
    context = graph.node("Gather", [flat, layout.packed], f"{name}/context")  # (tokens, hidden)
    return emit_linear(graph, attention.output, context, f"{name}/output")


def _emit_turned(
    graph: GraphBuilder, attention: Attention, norm: Norm | None, rows: str, positions: Positions, name: str
) -> str:
    """A query or a key, (tokens, hidden), normed and rotated where the family does that."""
    if norm is not None:
        rows = emit_norm(graph, norm, rows, f"{name}/norm")
    if attention.rotary is None:
        return rows
    return _emit_rotary(graph, attention, attention.rotary, rows, positions, name)


def _emit_rotary(
    graph: GraphBuilder, attention: Attention, rotary: Rotary, rows: str, positions: Positions, name: str
) -> str:
    cosines, sines = positions.tables[rotary.name]
    head_size = attention.query.weight.shape[1] // attention.num_heads
    turned = 2 * len(rotary.frequencies)
    first = graph.constant([0])
    batch = graph.node("Unsqueeze", [rows, first], f"{name}/batch")  # all tokens as one text: (1, tokens, hidden)
    batch = graph.node(
        "RotaryEmbedding",
        [batch, cosines, sines],
        f"{name}/rotated_batch",
        num_heads=attention.num_heads,
        interleaved=int(rotary.interleaved),
        rotary_embedding_dim=0 if turned == head_size else turned,  # 0 is the whole head
    )
    return graph.node("Squeeze", [batch, first], f"{name}/rotated")
