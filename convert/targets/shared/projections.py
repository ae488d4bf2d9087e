"""Query, key and value of each row: products, norms and the rotation, on packed rows and on rectangles alike."""

from __future__ import annotations

from collections.abc import Callable

from ...architecture import Attention, Heads, Rotary
from ...checkpoint.tensors import Norm
from ...graph.builder import GraphBuilder
from ...graph.norms import emit_norm
from .blocks import emit_linear, side_by_side
from .positions import Positions

__all__ = ["Rotate", "emit_projections", "emit_rotary"]

#: Adds the nodes of a rotation: graph, heads of the rows, rotation, rows, positions, and prefix of the nodes' names.
Rotate = Callable[[GraphBuilder, Heads, Rotary, str, Positions, str], str]


def emit_projections(
    graph: GraphBuilder, attention: Attention, hidden: str, positions: Positions, name: str, rotate: Rotate
) -> tuple[str, str, str]:
    """Add query, key and value of each row, with norm and rotation if the family has them.

    Args:
        graph: graph to add to.
        attention: description of the attention.
        hidden: rows, (…, hidden).
        positions: tables to rotate with.
        name: name of the attention.
        rotate: adds the nodes of a rotation.

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
            rows = emit_norm(graph, norm, rows, f"{part}/norm")
        return rows if attention.rotary is None else rotate(graph, heads, attention.rotary, rows, positions, part)

    query = turned(attention.query_norm, query, attention.query_heads, f"{name}/query")
    key = turned(attention.key_norm, key, attention.key_heads, f"{name}/key")
    return query, key, value


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
