"""Attention of the target `cpu` up to its context: from packed tokens to packed tokens, through a rectangle of texts."""

from __future__ import annotations

from collections.abc import Mapping

from ...architecture import Attention, Window
from ...graph.builder import GraphBuilder
from ..shared.convolutions import emit_span_convolution
from ..shared.disentangled import emit_by_distance
from ..shared.pooling import PooledRows, take_context
from ..shared.positions import CAUSAL, NO_BIAS, Positions, bias_key
from ..shared.projections import emit_projections, emit_rotary
from .packed_layout import PackedLayout
from .window_blocks import Blocks, emit_block_attention, emit_global_first, is_blockwise

__all__ = ["emit_attention"]


def emit_attention(
    graph: GraphBuilder,
    attention: Attention,
    hidden: str,
    layout: PackedLayout,
    places: tuple[Positions, Mapping[int, Blocks]],
    name: str,
    rows: PooledRows | None,
) -> str:
    """Add the operator `Attention` over the rectangle; `nonpad_kv_seqlen` keeps padding out of every softmax.

    With a causal mask no token sees the padding, which comes after it. The operator then needs no lengths, and may have none:
    with both, it aligns the mask at the end of each text, as for a text that continues a cache.

    The norm and the rotation of a query or key work on packed rows, before there is any padding.

    Args:
        graph: graph to add to.
        attention: description of the attention.
        hidden: packed hidden states, (tokens, hidden).
        layout: places of the tokens.
        places: tables to rotate with and the biases of the scores; and places of the tokens in blocks, by the size of the
            window, for attentions in blocks.
        name: prefix of the nodes' names.
        rows: rows that are pooled; None for all.

    Returns:
        The context of the attention, (tokens, heads · head_size), or twice as wide with convolutions; or its pooled rows.
    """
    positions, blocks = places
    query, key, value = emit_projections(graph, attention, hidden, positions, name, emit_rotary)
    if is_blockwise(attention) and isinstance(attention.mask, Window):
        own = blocks[attention.mask.before]
        context = emit_block_attention(graph, attention, (query, key, value), own, name)
        context = emit_global_first(graph, attention, hidden, context, (layout, own), name)
        return take_context(rows, attention, context, name)
    if rows is not None and _reads_all(attention, positions, rows):
        return _emit_pooled(graph, attention, (query, key, value), layout, rows, name)
    rectangles = [
        graph.node("Gather", [rows, layout.rectangle], f"{name}/{part}_rectangle")  # (texts, longest, hidden)
        for part, rows in (("query", query), ("key", key), ("value", value))
    ]
    bias = positions.bias_of(attention)
    is_causal = bias_key(attention) == CAUSAL and not bias  # tokens that no token sees need the lengths, and so a bias
    if positions.by_distance is not None:
        heads = [
            _emit_heads(graph, attention, rows, f"{name}/{part}_heads")
            for part, rows in zip(("query", "key"), rectangles, strict=False)
        ]
        bias = emit_by_distance(graph, attention, (heads[0], heads[1]), positions.by_distance, name)
    context = graph.node(
        "Attention",
        rectangles if is_causal else [*rectangles, bias, "", "", layout.lengths],
        f"{name}/context_rectangle",
        q_num_heads=attention.num_heads,
        kv_num_heads=attention.num_kv_heads,
        scale=attention.scale,
        **({"is_causal": 1} if is_causal else {}),
    )
    width = attention.query_heads.width
    flat = graph.node("Reshape", [context, graph.constant([-1, width])], f"{name}/context_flat")
    around = None if attention.convolution is None else positions.around
    packed = f"{name}/context" if around is None else f"{name}/self_context"
    context = graph.node("Gather", [flat, layout.packed], packed)  # (tokens, heads · head_size)
    if around is not None:
        convolved = emit_span_convolution(graph, attention, hidden, query, around, name)
        context = graph.node("Concat", [context, convolved], f"{name}/context", axis=-1)
    return take_context(rows, attention, context, name)


def _reads_all(attention: Attention, positions: Positions, rows: PooledRows) -> bool:
    """Return whether a pooled token attends to all tokens of its text, by the scores of query and key alone."""
    key = bias_key(attention)
    return (
        (key == NO_BIAS or (key == CAUSAL and rows.mode == "lasttoken"))
        and not positions.bias_of(attention)
        and positions.by_distance is None
        and attention.convolution is None
    )


def _emit_pooled(
    graph: GraphBuilder,
    attention: Attention,
    projections: tuple[str, str, str],
    layout: PackedLayout,
    rows: PooledRows,
    name: str,
) -> str:
    """Add the attention of one token of each text to all tokens of the text, up to its context, (texts, heads · head_size).

    Args:
        graph: graph to add to.
        attention: description of the attention.
        projections: query, key and value, packed.
        layout: places of the tokens.
        rows: rows that are pooled.
        name: prefix of the nodes' names.
    """
    packed, *others = projections
    width, one = attention.query_heads.width, graph.constant([1])
    query = rows.take(packed, width, f"{name}/query")
    query = graph.node("Unsqueeze", [query, one], f"{name}/query_row")  # (texts, 1, heads · head_size)
    rectangles = [
        graph.node("Gather", [other, layout.rectangle], f"{name}/{part}_rectangle")
        for part, other in zip(("key", "value"), others, strict=True)
    ]
    context = graph.node(
        "Attention",
        [query, *rectangles, "", "", "", layout.lengths],
        f"{name}/context_row",
        q_num_heads=attention.num_heads,
        kv_num_heads=attention.num_kv_heads,
        scale=attention.scale,
    )
    return graph.node("Squeeze", [context, one], f"{name}/context")


def _emit_heads(graph: GraphBuilder, attention: Attention, rows: str, name: str) -> str:
    """Add rows of the rectangle by heads, (texts, heads, longest, head_size)."""
    sizes = graph.constant([0, 0, attention.num_heads, attention.head_size])
    split = graph.node("Reshape", [rows, sizes], f"{name}/split")
    return graph.node("Transpose", [split], name, perm=(0, 2, 1, 3))
