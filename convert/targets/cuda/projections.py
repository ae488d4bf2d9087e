"""Query, key and value on the target `cuda`, as its attention takes them with the fewest passes over memory.

Measured on an H100, BERT-base's and nomic-embed's dimensions, 256 x 128 tokens (benchmarks/gpu):

* With biases and without rotation, query, key and value of a head lie beside each other in one product, and the attention
  adds the biases where it sorts them out. Three products need no sorting, and the key's bias changes no softmax and the
  value's could go to the output; but the query's takes two passes more, which cost as much when it was tried.
* Otherwise they are three products: one product and a Split cost 2 ms of 27.
* `RotaryEmbedding` takes a block of 64 threads for each head of each token, done before it is started: 5.7 ms of 27. Pairs
  that are neighbors can be rotated in any grouping of heads, up to 1,024 elements together. So the columns of the query's
  and the key's weights are sorted into pairs. Their products do not change: both are sorted alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...architecture import Attention
from ...checkpoint.tensors import Linear, interleave_heads, pair_columns
from ...graph.builder import GraphBuilder
from ..shared.blocks import emit_linear, side_by_side
from ..shared.positions import Positions
from ..shared.projections import emit_projections, emit_rotary

__all__ = ["Tables", "emit_qkv", "emit_wide_tables", "heads_together"]

#: Elements that one block of `RotaryEmbedding`'s threads rotates at most.
BLOCK = 1024

#: By a rotation's name, its cosines and sines for several heads beside each other, (1, tokens, pairs of those heads).
Tables = Mapping[str, tuple[str, str]]


def heads_together(attention: Attention) -> int:
    """Heads that are rotated as one; 1 where they cannot be."""
    rotary = attention.rotary
    if rotary is None or attention.query_norm is not None or attention.key_norm is not None:
        return 1
    if 2 * len(rotary.frequencies) != attention.head_size:
        return 1
    return max(
        count
        for count in range(1, attention.num_heads + 1)
        if not attention.num_heads % count and count * attention.head_size <= BLOCK
    )


def emit_wide_tables(graph: GraphBuilder, attentions: Sequence[Attention], positions: Positions) -> Tables:
    """The rows of the rotary tables, once for each head that is rotated together with others."""
    wide: dict[str, tuple[str, str]] = {}
    for attention in attentions:
        rotary, count = attention.rotary, heads_together(attention)
        if rotary is None or count == 1 or rotary.name in wide:
            continue
        cosines, sines = (
            graph.node("Concat", [rows] * count, f"positions/{rotary.name}/{part}_of_heads", axis=-1)
            for part, rows in zip(("cos", "sin"), positions.tables[rotary.name], strict=True)
        )
        wide[rotary.name] = (cosines, sines)
    return wide


def emit_qkv(
    graph: GraphBuilder, attention: Attention, hidden: str, positions: Positions, wide: Tables, name: str
) -> list[str]:
    """The first four inputs of `PackedMultiHeadAttention`: query, key, value, and their biases, where it is to add them.

    Args:
        graph: where to.
        attention: which.
        hidden: (tokens, hidden).
        positions: the tables to rotate with.
        wide: those of several heads.
        name: of the attention.
    """
    if (packed := _emit_packed(graph, attention, hidden, name)) is not None:
        rows, bias = packed
        return [rows, "", "", bias]
    count = heads_together(attention)
    if count == 1 and (attention.rotary or attention.query_norm or attention.key_norm):
        return [*emit_projections(graph, attention, hidden, positions, name, emit_rotary), ""]
    query, key = (
        emit_linear(graph, part, hidden, f"{name}/{what}")
        if count == 1
        else _emit_rotated(graph, attention, part, hidden, wide, f"{name}/{what}_pairs")
        for what, part in (("query", attention.query), ("key", attention.key))
    )
    return [query, key, emit_linear(graph, attention.value, hidden, f"{name}/value"), ""]


def _emit_packed(graph: GraphBuilder, attention: Attention, hidden: str, name: str) -> tuple[str, str] | None:
    """Query, key and value as one product without its bias, and that bias.

    Returns:
        The product, (tokens, heads, 3, head_size), and the bias, (3 · heads · head_size,), query's first, then key's and
        value's; None if something is done to single queries or keys, or there is no bias to save.
    """
    parts = (attention.query, attention.key, attention.value)
    if (
        attention.rotary is not None
        or attention.query_norm is not None
        or attention.key_norm is not None
        or graph.precision.arithmetic == "bf16"
        or attention.num_kv_heads != attention.num_heads
        or any(part.bias is None for part in parts)
    ):
        return None
    joined = side_by_side(parts, f"{name}/qkv")
    if joined.bias is None:
        return None
    weight = interleave_heads(f"{joined.weight.name}.heads", [part.weight for part in parts], attention.head_size)
    product = graph.node("MatMul", [hidden, graph.weight(weight)], f"{name}/qkv")
    shape = graph.constant([0, attention.num_heads, len(parts), attention.head_size])
    return graph.node("Reshape", [product, shape], f"{name}/qkv_heads"), graph.weight(joined.bias)


def _emit_rotated(graph: GraphBuilder, attention: Attention, part: Linear, hidden: str, wide: Tables, name: str) -> str:
    """A query or key whose pairs are neighbors, rotated, (tokens, heads · head_size)."""
    rotary = attention.rotary
    assert rotary is not None
    if not rotary.interleaved:
        weight = pair_columns(part.weight, attention.head_size)
        part = Linear(weight, part.bias and pair_columns(part.bias, attention.head_size))
    rows = emit_linear(graph, part, hidden, name)
    first = graph.constant([0])
    batch = graph.node("Unsqueeze", [rows, first], f"{name}/batch")  # all tokens as one text: (1, tokens, hidden)
    batch = graph.node(
        "RotaryEmbedding",
        [batch, *wide[rotary.name]],
        f"{name}/rotated_batch",
        num_heads=attention.num_heads // heads_together(attention),
        interleaved=1,
    )
    return graph.node("Squeeze", [batch, first], f"{name}/rotated")
