"""Query, key and value of each row: products, norms and the rotation, on packed rows and on rectangles alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...architecture import Attention, Heads, Rotary
from ...checkpoint.tensors import Norm
from ...graph.builder import GraphBuilder
from ...graph.norms import emit_norm
from .blocks import emit_linear, side_by_side
from .positions import Positions

__all__ = ["Rotate", "emit_head_norm", "emit_projections", "emit_repeated_heads", "emit_rotary"]

#: Adds the nodes of a rotation: graph, heads of the rows, rotation, rows, positions, and prefix of the nodes' names.
Rotate = Callable[[GraphBuilder, Heads, Rotary, str, Positions, str], str]


def emit_projections(
    graph: GraphBuilder,
    attention: Attention,
    hidden: str,
    positions: Positions,
    name: str,
    rotate: Rotate,
    sides: Sequence[int] = (0,),
) -> tuple[str, str, str]:
    """Add query, key and value of each row, with norm and rotation if the family has them.

    Args:
        graph: graph to add to.
        attention: description of the attention.
        hidden: rows, (…, hidden).
        positions: tables to rotate with.
        name: name of the attention.
        rotate: adds the nodes of a rotation.
        sides: sizes of the rows' axes before the last one, for Reshape; 0 copies a size.

    Returns:
        The query, (…, heads · head_size), and key and value, (…, key heads · head_size).
    """
    parts = (attention.query, attention.key, attention.value)
    packed = emit_linear(graph, side_by_side(parts, f"{name}/qkv"), hidden, f"{name}/qkv")
    heads = (attention.query_heads, attention.key_heads, attention.key_heads)
    query, key, value = graph.nodes(
        "Split",
        [packed, graph.constant([part.width for part in heads])],
        f"{name}/split",
        [f"{name}/{part}" for part in ("query", "key", "value")],
        axis=-1,
    )

    def turned(norm: Norm | None, rows: str, heads: Heads, part: str) -> str:
        if norm is not None:
            rows = emit_head_norm(graph, norm, rows, heads, sides, f"{part}/norm")
        return rows if attention.rotary is None else rotate(graph, heads, attention.rotary, rows, positions, part)

    query = turned(attention.query_norm, query, attention.query_heads, f"{name}/query")
    key = turned(attention.key_norm, key, attention.key_heads, f"{name}/key")
    if attention.value_norm is not None:
        value = emit_head_norm(graph, attention.value_norm, value, attention.key_heads, sides, f"{name}/value/norm")
    return query, key, value


def emit_head_norm(graph: GraphBuilder, norm: Norm, rows: str, heads: Heads, sides: Sequence[int], name: str) -> str:
    """Add the norm of projected rows, (…, heads · head_size): over all heads, or over each if the weight has a head's width.

    Args:
        graph: graph to add to.
        norm: the norm.
        rows: projected rows.
        heads: heads of the rows.
        sides: sizes of the axes before the last one, for Reshape; 0 copies a size.
        name: name of the last node.
    """
    if norm.weight.shape[0] == heads.width:
        return emit_norm(graph, norm, rows, name)
    split = graph.node("Reshape", [rows, graph.constant([*sides, heads.count, heads.size])], f"{name}/split")
    normed = emit_norm(graph, norm, split, f"{name}/each")
    return graph.node("Reshape", [normed, graph.constant([*sides, heads.width])], name)


def emit_repeated_heads(graph: GraphBuilder, attention: Attention, rows: str, sides: Sequence[int], name: str) -> str:
    """Add keys or values with one head for each head of the query, for attentions that have no grouped heads.

    Args:
        graph: graph to add to.
        attention: description of the attention.
        rows: (…, key heads · head_size).
        sides: see `emit_head_norm`.
        name: prefix of the nodes' names.

    Returns:
        (…, heads · head_size): the first key head for the first group of query heads, and so on; `rows` if there is one key
        head for each query head.
    """
    times = attention.num_heads // attention.num_kv_heads
    if times == 1:
        return rows
    heads = attention.key_heads
    split = graph.node("Reshape", [rows, graph.constant([*sides, heads.count, 1, heads.size])], f"{name}/groups")
    repeated = graph.node("Concat", [split] * times, f"{name}/repeated", axis=-2)
    return graph.node(
        "Reshape", [repeated, graph.constant([*sides, attention.query_heads.width])], f"{name}/of_queries"
    )


def emit_rotary(graph: GraphBuilder, heads: Heads, rotary: Rotary, rows: str, positions: Positions, name: str) -> str:
    """Rotate packed rows, (tokens, heads · head_size), by the operator `RotaryEmbedding`."""
    cosines, sines = positions.tables[rotary.name]
    width = 2 * len(rotary.frequencies)
    first = graph.constant([0])
    batch = graph.node("Unsqueeze", [rows, first], f"{name}/batch")  # all tokens as one text: (1, tokens, width)
    batch = graph.node(
        "RotaryEmbedding",
        [batch, cosines, sines],
        f"{name}/rotated_batch",
        num_heads=heads.count,
        interleaved=int(rotary.interleaved),
        rotary_embedding_dim=0 if width == heads.size else width,  # 0 is the whole head
    )
    return graph.node("Squeeze", [batch, first], f"{name}/rotated")
