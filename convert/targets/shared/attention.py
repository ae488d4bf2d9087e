"""Attention from packed tokens to packed tokens, through a rectangle of texts."""

from __future__ import annotations

from collections.abc import Callable

from ...architecture import Attention, Rotary
from ...checkpoint.tensors import Norm
from ...graph.builder import GraphBuilder
from ..cpu.layout import Layout
from .blocks import emit_linear, emit_norm, side_by_side
from .positions import Positions

__all__ = ["Rotate", "emit_attention", "emit_projections", "emit_rotary"]

Rotate = Callable[[GraphBuilder, Attention, Rotary, str, Positions, str], str]


def emit_attention(
    graph: GraphBuilder, attention: Attention, hidden: str, layout: Layout, positions: Positions, name: str
) -> str:
    """Attention(q, k, v) over the rectangle; `nonpad_kv_seqlen` keeps padding out of every softmax.

    Whatever is done to a single query, key or value (norm, rotation) is done to packed rows, before padding exists.
    """
    query, key, value = emit_projections(graph, attention, hidden, positions, name, emit_rotary)
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


def emit_projections(
    graph: GraphBuilder, attention: Attention, hidden: str, positions: Positions, name: str, rotate: Rotate
) -> tuple[str, str, str]:
    """Query, key and value of each row, normed and rotated where the family does that.

    Args:
        graph: where to.
        attention: which.
        hidden: rows, (…, hidden).
        positions: the tables to rotate with.
        name: of the attention.
        rotate: adds the nodes of a rotation.
    """
    parts = (attention.query, attention.key, attention.value)
    packed = emit_linear(graph, side_by_side(parts, f"{name}/qkv"), hidden, f"{name}/qkv")
    widths = graph.constant([part.weight.shape[1] for part in parts])
    query, key, value = graph.nodes(
        "Split", [packed, widths], f"{name}/split", [f"{name}/{part}" for part in ("query", "key", "value")], axis=-1
    )  # each (…, hidden)
    query = _emit_turned(graph, attention, attention.query_norm, query, positions, f"{name}/query", rotate)
    key = _emit_turned(graph, attention, attention.key_norm, key, positions, f"{name}/key", rotate)
    return query, key, value


def _emit_turned(
    graph: GraphBuilder,
    attention: Attention,
    norm: Norm | None,
    rows: str,
    positions: Positions,
    name: str,
    rotate: Rotate,
) -> str:
    if norm is not None:
        rows = emit_norm(graph, norm, rows, f"{name}/norm")
    if attention.rotary is None:
        return rows
    return rotate(graph, attention, attention.rotary, rows, positions, name)


def emit_rotary(
    graph: GraphBuilder, attention: Attention, rotary: Rotary, rows: str, positions: Positions, name: str
) -> str:
    """Rotates packed rows, (tokens, hidden), with the operator made for it."""
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
