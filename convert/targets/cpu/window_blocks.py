"""Attention in a window on the target `cpu`, in blocks of tokens: its cost grows with the length of a text, not its square.

A text is cut into blocks of half as many tokens as the window has on one side. A block attends to itself and to two blocks on
each side, so that five blocks of keys hold the window of each of its tokens. Larger blocks compute more scores that are
masked, smaller ones copy keys and values more often. For texts that are shorter than a block, the block has the length of
the longest one.

If the first token has global attention, each block has its key too, behind the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...architecture import Architecture, Attention, Window
from ...graph.builder import GraphBuilder
from ..shared.blocks import emit_linear
from ..shared.positions import OUT_OF_SIGHT
from .packed_layout import PackedLayout

__all__ = ["NEIGHBORS", "SIDE", "Blocks", "emit_block_attention", "emit_blocks", "emit_global_first", "is_blockwise"]

#: Blocks on each side of a block that hold the window of its tokens, and all blocks of keys for a block of queries.
SIDE = 2
NEIGHBORS = 2 * SIDE + 1


@dataclass(frozen=True, slots=True)
class Blocks:
    """Names of the values that hold the places of the tokens in blocks.

    Attributes:
        queries: packed row of each place of a block; padding repeats row 0, int64, (blocks, size).
        keys: the same of the block and of those around it, int64, (blocks, 5 · size).
        packed: place of each packed row in the flattened blocks, int64, (tokens,).
        mask: number added to the scores, 0 inside the window, (blocks, 1, size, 5 · size).
        firsts: for global attention of the first token, row of each token in the local contexts, with those of the texts'
            first tokens behind them, int64, (tokens,); else empty. Keys and mask have one more column then.
    """

    queries: str
    keys: str
    packed: str
    mask: str
    firsts: str = ""


def is_blockwise(attention: Attention) -> bool:
    """Return whether this target computes an attention in blocks."""
    mask = attention.mask
    plain = attention.alibi is None and attention.relative_bias is None and attention.disentangled is None
    return attention.blockwise and plain and isinstance(mask, Window) and mask.before == mask.after


def emit_blocks(graph: GraphBuilder, architecture: Architecture, layout: PackedLayout) -> Mapping[int, Blocks]:
    """Add the places of the tokens in blocks, by the number of tokens on one side of the window."""
    attentions = filter(is_blockwise, architecture.attentions)
    sizes = {part.mask.before for part in attentions if isinstance(part.mask, Window)}
    firsts = ""
    if any(part.first is not None for part in architecture.attentions):
        firsts = _emit_firsts(graph, layout)
    return {size: _emit_blocks(graph, size, layout, firsts, f"layout/window.{size}") for size in sorted(sizes)}


def _emit_firsts(graph: GraphBuilder, layout: PackedLayout) -> str:
    """Add the row of each token in packed contexts, with a row for each text behind them: for first tokens that row."""
    zero, one, last = graph.constant(0), graph.constant(1), graph.constant([0])
    tokens = graph.node("Squeeze", [graph.node("Shape", [layout.packed], "firsts/shape"), last], "firsts/tokens")
    rows = graph.node("Range", [zero, tokens, one], "firsts/rows")
    text = graph.node("Div", [layout.packed, graph.node("Shape", [layout.steps], "firsts/longest")], "firsts/text")
    behind = graph.node("Add", [text, tokens], "firsts/behind")
    is_first = graph.node("Equal", [layout.positions, zero], "firsts/is_first")
    return graph.node("Where", [is_first, behind, rows], "firsts/index")


def _emit_blocks(graph: GraphBuilder, window: int, layout: PackedLayout, firsts: str, name: str) -> Blocks:
    zero, one, flat = graph.constant(0), graph.constant(1), graph.constant([-1])
    last = graph.constant([1])
    longest = graph.node("ReduceMax", [layout.lengths], f"{name}/longest", keepdims=0)
    size = graph.node("Min", [longest, graph.constant(-(-window // SIDE))], f"{name}/size")
    # Blocks that exist, in the order of the texts: (blocks,).
    full = graph.node("Add", [layout.lengths, graph.node("Sub", [size, one], f"{name}/rest")], f"{name}/rounded_up")
    counts = graph.node("Div", [full, size], f"{name}/counts")
    most = graph.node("ReduceMax", [counts], f"{name}/most", keepdims=0)
    numbers = graph.node("Range", [zero, most, one], f"{name}/numbers")
    exists = graph.node("Less", [numbers, graph.node("Unsqueeze", [counts, last], f"{name}/column")], f"{name}/exists")
    cells = graph.node("NonZero", [graph.node("Reshape", [exists, flat], f"{name}/exists_flat")], f"{name}/cells")
    cells = graph.node("Squeeze", [cells, graph.constant([0])], f"{name}/block")
    text = graph.node("Div", [cells, most], f"{name}/text")
    number = graph.node("Mod", [cells, most], f"{name}/number")

    def column(value: str, part: str) -> str:
        return graph.node("Unsqueeze", [value, last], f"{name}/{part}_column")

    first = graph.node("Mul", [number, size], f"{name}/first")  # position of the block's first token
    first = column(first, "first")
    start = column(graph.node("Gather", [layout.starts, text], f"{name}/start"), "start")
    length = column(graph.node("Gather", [layout.lengths, text], f"{name}/length"), "length")
    steps = graph.node("Range", [zero, size, one], f"{name}/steps")
    position = graph.node("Add", [first, steps], f"{name}/position")  # (blocks, size)
    is_token = graph.node("Less", [position, length], f"{name}/is_token")
    rows = graph.node("Add", [start, position], f"{name}/rows")
    queries = graph.node("Where", [is_token, rows, zero], f"{name}/queries")
    packed = graph.node("NonZero", [graph.node("Reshape", [is_token, flat], f"{name}/is_token_flat")], f"{name}/places")

    # The keys begin some blocks earlier.
    width = graph.node("Mul", [size, graph.constant(NEIGHBORS)], f"{name}/width")
    key_steps = graph.node("Range", [zero, width, one], f"{name}/key_steps")
    shift = graph.node("Mul", [size, graph.constant(SIDE)], f"{name}/shift")
    shifted = graph.node("Sub", [key_steps, shift], f"{name}/key_shifts")
    key_position = graph.node("Add", [first, shifted], f"{name}/key_position")  # (blocks, 5 · size)
    before = graph.node("Less", [key_position, zero], f"{name}/is_before")
    inside = graph.node("Less", [key_position, length], f"{name}/is_before_end")
    key_rows = graph.node("Add", [start, key_position], f"{name}/key_rows")
    key_rows = graph.node("Where", [inside, key_rows, zero], f"{name}/key_rows_before_end")
    keys = graph.node("Where", [before, zero, key_rows], f"{name}/keys")

    out, none = graph.constant(OUT_OF_SIGHT), graph.constant(0.0)
    distance = graph.node("Sub", [shifted, column(steps, "step")], f"{name}/distance")
    distance = graph.node("Abs", [distance], f"{name}/absolute_distance")
    beyond = graph.node("Greater", [distance, graph.constant(np.array(window, np.int64))], f"{name}/is_beyond")
    beyond = graph.node("Where", [beyond, out, none], f"{name}/beyond")  # (size, 5 · size)
    missing = graph.node("Where", [inside, none, out], f"{name}/after_end")
    missing = graph.node("Where", [before, out, missing], f"{name}/missing")
    missing = graph.node("Unsqueeze", [missing, graph.constant([1, 2])], f"{name}/missing_keys")
    mask = graph.node("Add", [missing, beyond], f"{name}/mask")
    if firsts:
        # The first token's key is in the last column alone, for the tokens of every block.
        begins = graph.node("Equal", [key_position, zero], f"{name}/is_first_key")
        begins = graph.node("Where", [begins, out, none], f"{name}/first_key")
        begins = graph.node("Unsqueeze", [begins, graph.constant([1, 2])], f"{name}/first_keys")
        mask = graph.node("Add", [mask, begins], f"{name}/mask_without_first")
        always = graph.node("Slice", [mask, graph.constant([0]), last, graph.constant([3])], f"{name}/any_column")
        always = graph.node("Mul", [always, none], f"{name}/always")
        mask = graph.node("Concat", [mask, always], f"{name}/mask_with_first", axis=3)
        keys = graph.node("Concat", [keys, start], f"{name}/keys_with_first", axis=1)
    return Blocks(
        queries=queries,
        keys=keys,
        packed=graph.node("Squeeze", [packed, graph.constant([0])], f"{name}/packed"),
        mask=mask,
        firsts=firsts,
    )


def emit_block_attention(
    graph: GraphBuilder, attention: Attention, projections: tuple[str, str, str], blocks: Blocks, name: str
) -> str:
    """Add the attention of blocks, up to its context.

    Args:
        graph: graph to add to.
        attention: description of the attention.
        projections: query, key and value, packed.
        blocks: places of the tokens.
        name: name of the attention.

    Returns:
        (tokens, heads · head_size).
    """
    part_name = f"{name}/context" if not blocks.firsts else f"{name}/local_context"
    places = (blocks.queries, blocks.keys, blocks.keys)
    parts = [
        graph.node("Gather", [rows, place], f"{name}/{part}_blocks")
        for part, rows, place in zip(("query", "key", "value"), projections, places, strict=True)
    ]
    context = graph.node(
        "Attention",
        [*parts, blocks.mask],
        f"{name}/context_blocks",
        q_num_heads=attention.num_heads,
        kv_num_heads=attention.num_kv_heads,
        scale=attention.scale,
    )
    width = attention.query_heads.width
    flat = graph.node("Reshape", [context, graph.constant([-1, width])], f"{name}/context_flat")
    return graph.node("Gather", [flat, blocks.packed], part_name)


def emit_global_first(
    graph: GraphBuilder, attention: Attention, hidden: str, local: str, places: tuple[PackedLayout, Blocks], name: str
) -> str:
    """Add the global attention of each text's first token, and return the contexts with its own instead of the local ones.

    Args:
        graph: graph to add to.
        attention: description of the attention.
        hidden: packed hidden states, (tokens, hidden).
        local: contexts of the window, (tokens, heads · head_size).
        places: places of the tokens in the rectangle, and in blocks.
        name: name of the attention.
    """
    layout, blocks = places
    first = attention.first
    if first is None:
        return local
    states = graph.node("Gather", [hidden, layout.starts], f"{name}/first/hidden")  # (texts, hidden)
    query = emit_linear(graph, first.query, states, f"{name}/first/query")
    query = graph.node("Unsqueeze", [query, graph.constant([1])], f"{name}/first/query_row")
    rows = []
    for part, linear in (("key", first.key), ("value", first.value)):
        packed = emit_linear(graph, linear, hidden, f"{name}/first/{part}")
        rows.append(graph.node("Gather", [packed, layout.rectangle], f"{name}/first/{part}_rows"))
    context = graph.node(
        "Attention",
        [query, *rows, "", "", "", layout.lengths],
        f"{name}/first/context",
        q_num_heads=attention.num_heads,
        kv_num_heads=attention.num_kv_heads,
        scale=attention.scale,
    )
    flat = graph.node("Reshape", [context, graph.constant([-1, attention.query_heads.width])], f"{name}/first/flat")
    both = graph.node("Concat", [local, flat], f"{name}/first/behind", axis=0)
    return graph.node("Gather", [both, blocks.firsts], f"{name}/context")
