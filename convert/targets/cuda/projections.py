"""Query, key and value on the target `cuda`, with the fewest passes over memory.

Measured with the sizes of BERT-base and nomic-embed, 256 x 128 tokens (H100, benchmarks/gpu):

* With biases and without rotation, query, key and value of a head lie beside each other in one product, and the attention
  adds the biases while it sorts them. Three products need no sorting, the key's bias changes no softmax, and the value's bias
  could be added to the output; but the query's bias needs two more passes, which take as long as the sorting.
* Otherwise they are three products: one product and a Split cost 2 ms of 27.
* `RotaryEmbedding` uses a block of 64 threads for each head of each token, which is too small: 5.7 ms of 27. Pairs of
  neighbors can be rotated in any grouping of heads, up to 1,024 elements together. So the columns of the query's and the
  key's weights are sorted into pairs. Their products do not change, because both are sorted in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...architecture import Attention, Heads
from ...checkpoint.tensors import Adapter, Linear, interleave_heads, pair_columns
from ...graph.builder import GraphBuilder
from ..shared.blocks import emit_linear, side_by_side
from ..shared.positions import Positions
from ..shared.projections import emit_projections, emit_repeated_heads, emit_rotary

__all__ = ["Tables", "emit_qkv", "emit_wide_tables", "heads_together"]

#: Largest number of elements that one block of `RotaryEmbedding`'s threads rotates.
BLOCK = 1024

#: Cosines and sines for several heads side by side, (1, tokens, pairs of these heads), by the rotation's name.
Tables = Mapping[str, tuple[str, str]]


def heads_together(attention: Attention) -> int:
    """Return the number of heads that are rotated as one; 1 if heads cannot be joined."""
    rotary = attention.rotary
    if rotary is None or attention.query_norm is not None or attention.key_norm is not None:
        return 1
    if 2 * len(rotary.frequencies) != attention.head_size:
        return 1
    return max(
        count
        for count in range(1, attention.num_kv_heads + 1)
        if not attention.num_kv_heads % count and count * attention.head_size <= BLOCK
    )


def emit_wide_tables(graph: GraphBuilder, attentions: Sequence[Attention], positions: Positions) -> Tables:
    """Add the rows of the rotary tables, repeated for all heads that are rotated together."""
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
    """Add the first four inputs of `PackedMultiHeadAttention`: query, key, value, and the biases that the operator adds.

    The operator has no grouped heads: keys and values are repeated after their norm and rotation, which takes less time than
    products with repeated weights.

    Args:
        graph: graph to add to.
        attention: description of the attention.
        hidden: hidden states, (tokens, hidden).
        positions: tables to rotate with.
        wide: tables for several heads.
        name: name of the attention.
    """
    if (packed := _emit_packed(graph, attention, hidden, name)) is not None:
        rows, bias = packed
        return [rows, "", "", bias]
    query, key, value = _emit_parts(graph, attention, hidden, positions, wide, name)
    key = emit_repeated_heads(graph, attention, key, (0,), f"{name}/key")
    value = emit_repeated_heads(graph, attention, value, (0,), f"{name}/value")
    return [query, key, value, ""]


def _emit_parts(
    graph: GraphBuilder, attention: Attention, hidden: str, positions: Positions, wide: Tables, name: str
) -> tuple[str, str, str]:
    """Add query, key and value as products of their own, or as one if a norm or a rotation of each head follows."""
    count = heads_together(attention)
    normed = attention.query_norm or attention.key_norm or attention.value_norm
    if count == 1 and (attention.rotary or normed):
        return emit_projections(graph, attention, hidden, positions, name, emit_rotary)
    query, key = (
        emit_linear(graph, part, hidden, f"{name}/{what}")
        if count == 1
        else _emit_rotated(graph, attention, (part, heads), hidden, wide, f"{name}/{what}_pairs")
        for what, part, heads in (
            ("query", attention.query, attention.query_heads),
            ("key", attention.key, attention.key_heads),
        )
    )
    return query, key, emit_linear(graph, attention.value, hidden, f"{name}/value")


def _emit_packed(graph: GraphBuilder, attention: Attention, hidden: str, name: str) -> tuple[str, str] | None:
    """Add query, key and value as one product without its bias, and that bias.

    Returns:
        The product, (tokens, heads, 3, head_size), and the bias, (3 · heads · head_size,), query's first, then key's and
        value's; None if queries or keys are normed, rotated or read elsewhere, or have no bias.
    """
    parts = (attention.query, attention.key, attention.value)
    if (
        attention.rotary is not None
        or attention.disentangled is not None  # its rows are read beside the operator
        or attention.convolution is not None  # the same
        or attention.query_norm is not None
        or attention.key_norm is not None
        or attention.value_norm is not None
        or any(part.adapter is not None for part in parts)
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


def _in_pairs(part: Linear, head_size: int) -> Linear:
    """Return a product whose columns are sorted into pairs, with the columns of its adapter."""
    adapter = part.adapter
    return Linear(
        pair_columns(part.weight, head_size),
        part.bias and pair_columns(part.bias, head_size),
        adapter and Adapter(adapter.down, pair_columns(adapter.up, head_size)),
    )


def _emit_rotated(
    graph: GraphBuilder, attention: Attention, projection: tuple[Linear, Heads], hidden: str, wide: Tables, name: str
) -> str:
    """Add a rotated query or key whose pairs are neighbors, (tokens, heads · head_size)."""
    (part, heads), rotary = projection, attention.rotary
    assert rotary is not None
    if not rotary.interleaved:
        part = _in_pairs(part, attention.head_size)
    rows = emit_linear(graph, part, hidden, name)
    first = graph.constant([0])
    batch = graph.node("Unsqueeze", [rows, first], f"{name}/batch")  # all tokens as one text: (1, tokens, hidden)
    batch = graph.node(
        "RotaryEmbedding",
        [batch, *wide[rotary.name]],
        f"{name}/rotated_batch",
        num_heads=heads.count // heads_together(attention),
        interleaved=1,
    )
    return graph.node("Squeeze", [batch, first], f"{name}/rotated")
