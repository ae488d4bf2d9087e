"""Positions inside attention: rotary tables, and one additive bias for windows, ALiBi and learned relative positions.

Both are computed once in a run of the graph, for all layers that share them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...architecture import Architecture, Attention, Mask, RelativeBias, Rotary, Window
from ...checkpoint.tensors import Weight, constant
from ...graph.builder import GraphBuilder
from .convolutions import Around
from .disentangled import ByDistance

__all__ = [
    "CAUSAL",
    "NO_BIAS",
    "OUT_OF_SIGHT_HALF",
    "Positions",
    "bias_key",
    "biased_attentions",
    "buckets",
    "emit_positions",
    "emit_sum",
    "has_bias",
    "is_symmetric",
    "rotaries_of",
    "rotary_tables",
    "rotary_weights",
]

#: Number added to the scores outside a window. Its exp underflows to 0, and it is finite, so that a row without visible
#: tokens (padding) gets equal weights; -inf would give NaN.
OUT_OF_SIGHT = -1e30
#: The same number for graphs with half types, whose range ends at 65504.
OUT_OF_SIGHT_HALF = -1e4

#: Key of a bias: mask, slopes, and the learned table's name. Layers with equal keys add the same bias to their scores.
BiasKey = tuple[Mask, tuple[float, ...] | None, str | None]

#: Key of the layers that add nothing to their scores.
NO_BIAS: BiasKey = ("full", None, None)

#: Key of the layers whose scores have a causal mask alone, which the operator `Attention` has an attribute for.
CAUSAL: BiasKey = ("causal", None, None)


@dataclass(frozen=True, slots=True)
class Positions:
    """Names of values that attention layers share.

    Attributes:
        tables: cosines and sines of each token by the name of the `Rotary`: (1, tokens, pairs) packed, (texts, longest, 1,
            pairs) in a rectangle.
        biases: biases by their keys, (1, heads or 1, longest, longest).
        by_distance: way to place scores by content and distance, for models that have them.
        around: index of the tokens around each token, for models with convolutions.
        others: 0 for the first position and 1 for the others, (longest,), for global attention of the first token.
    """

    tables: Mapping[str, tuple[str, str]]
    biases: Mapping[BiasKey, str]
    by_distance: ByDistance | None = None
    around: Around | None = None
    others: str = ""

    def bias_of(self, attention: Attention) -> str:
        """Return the name of the bias that an attention adds to its scores; an empty name if it adds none."""
        return self.biases.get(bias_key(attention), "")


def emit_positions(
    graph: GraphBuilder,
    architecture: Architecture,
    positions: str,
    steps: str,
    *,
    rows_axis: int = 0,
    without: Collection[BiasKey] = (NO_BIAS,),
    rotaries: Mapping[str, Rotary] | None = None,
) -> Positions:
    """Add the rotary tables and biases of an architecture's layers, each once.

    Args:
        graph: graph to add to.
        architecture: architecture with the layers.
        positions: position of each token in its text, int32 or int64, in the shape of the token ids; used for rotary layers.
        steps: 0, 1, … longest - 1, int32, (longest,); used for layers with a bias.
        rows_axis: axis of size 1 that is added to the rows of the rotary tables.
        without: keys of biases that the target's attention needs not.
        rotaries: rotations whose tables are added, by name. Default: all.
    """
    rotaries = rotaries_of(architecture) if rotaries is None else rotaries
    tables = {
        name: _emit_table(graph, rotary, architecture.max_positions, positions, rows_axis)
        for name, rotary in rotaries.items()
    }
    different = biased_attentions(architecture, without)
    if not different:
        return Positions(tables, {})
    one = graph.constant([1])
    query = graph.node("Unsqueeze", [steps, one], "positions/query")
    # A square of longest x longest in int32 takes 268 MB for 8,192 tokens, so only squares that a layer needs are added.
    distance = graph.node("Sub", [steps, query], "positions/distance")  # key - query
    absolute = ""
    if any(part.alibi is not None or is_symmetric(part.mask) for part in different.values()):
        absolute = graph.node("Abs", [distance], "positions/absolute_distance")
    others = ""
    if any(part.first is not None for part in different.values()):
        least = graph.node("Min", [steps, graph.constant(np.array(1, np.int32))], "positions/first_or_other")
        others = graph.node("Cast", [least], "positions/others", to=1)
    biases = {
        key: _emit_bias(
            graph, part, architecture.max_positions, (distance, absolute, others), f"positions/bias.{index}"
        )
        for index, (key, part) in enumerate(different.items())
    }
    return Positions(tables, biases, others=others)


def rotaries_of(architecture: Architecture) -> dict[str, Rotary]:
    """Return the rotary positions of an architecture, by name."""
    rotaries = (attention.rotary for attention in architecture.attentions)
    return {rotary.name: rotary for rotary in rotaries if rotary is not None}


def has_bias(architecture: Architecture, without: Collection[BiasKey] = (NO_BIAS,)) -> bool:
    """Return whether some layer adds to its scores."""
    return bool(biased_attentions(architecture, without))


def biased_attentions(
    architecture: Architecture, without: Collection[BiasKey] = (NO_BIAS,)
) -> dict[BiasKey, Attention]:
    """Return one attention for each different bias of an architecture, except those of the keys `without`."""
    different = {bias_key(attention): attention for attention in architecture.attentions}
    return {key: attention for key, attention in different.items() if key not in without}


def is_symmetric(mask: Mask) -> bool:
    """Return whether a mask is a window with as many tokens before a token as after it."""
    return isinstance(mask, Window) and mask.before == mask.after


def rotary_tables(rotary: Rotary, num_positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines, (positions, pairs).

    The angle is rounded to float32 as in every PyTorch implementation, with which the models were trained: at position 8000
    the rounding moves it by up to 2e-4.
    """
    steps = np.arange(num_positions, dtype=np.float32)
    angles = np.outer(steps, np.array(rotary.frequencies, np.float32)).astype(np.float64)
    return (
        (np.cos(angles) * rotary.factor).astype(np.float32),
        (np.sin(angles) * rotary.factor).astype(np.float32),
    )


def rotary_weights(graph: GraphBuilder, rotary: Rotary, num_positions: int) -> tuple[str, str]:
    """Add the tables of cosines and sines to the weights, and return their names."""
    cosines, sines = rotary_tables(rotary, num_positions)
    return (
        graph.weight(constant(f"{rotary.name}.cos", cosines)),
        graph.weight(constant(f"{rotary.name}.sin", sines)),
    )


def buckets(distances: NDArray[np.int64], num_buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Return T5's bucket of each distance (key - query), for attention in both directions.

    Half of the buckets are for distances above 0. One half of each half has a bucket for each distance; the sizes of the
    others grow logarithmically up to `max_distance`. The computation is in float32 as in transformers, because rounding
    decides at a boundary.

    Source: `relative_position_bucket` in transformers' modeling_mpnet.py.
    """
    half = num_buckets // 2
    exact = half // 2
    size = np.abs(distances)
    scaled = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    scaled = scaled / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + scaled.astype(np.int64), half - 1)
    bucket: NDArray[np.int64] = np.where(distances > 0, half, 0) + np.where(size < exact, size, far)
    return bucket


def bias_key(attention: Attention) -> BiasKey:
    """Return the key of a layer's bias; `NO_BIAS` if the layer has none."""
    learned = attention.relative_bias
    return attention.mask, attention.alibi, None if learned is None else learned.table.name


def _emit_table(
    graph: GraphBuilder, rotary: Rotary, num_positions: int, positions: str, rows_axis: int
) -> tuple[str, str]:
    """Add each token's row of the tables.

    `RotaryEmbedding` could look up positions by itself, but refuses more tokens than the table has rows (ONNX Runtime 1.32:
    "Updating cos_cache and sin_cache … is not currently supported"), and all texts of a batch are one text here.
    """
    parts = []
    for name, weight in zip(("cos", "sin"), rotary_weights(graph, rotary, num_positions), strict=True):
        rows = graph.node("Gather", [weight, positions], f"positions/{rotary.name}/{name}_rows")
        parts.append(graph.node("Unsqueeze", [rows, graph.constant([rows_axis])], f"positions/{rotary.name}/{name}"))
    return parts[0], parts[1]


def _emit_bias(
    graph: GraphBuilder, attention: Attention, num_positions: int, places: tuple[str, str, str], name: str
) -> str:
    distance, absolute, others = places
    terms = []
    if attention.alibi is not None:
        slopes = graph.constant(-np.array(attention.alibi, np.float32)[:, None, None])
        steps = graph.node("Cast", [absolute], f"{name}/steps", to=1)
        terms.append(graph.node("Mul", [steps, slopes], f"{name}/alibi"))  # (heads, longest, longest)
    if attention.relative_bias is not None:
        table = graph.weight(_by_distance(attention.relative_bias, num_positions))
        shift = graph.constant(np.array(num_positions - 1, np.int32))
        index = graph.node("Add", [distance, shift], f"{name}/index")
        # The spelling stays: artifacts' digests are made of their graphs' bytes. (heads, longest, longest)
        terms.append(graph.node("Gather", [table, index], f"{name}/learnt", axis=1))
    if attention.mask != "full":
        out = OUT_OF_SIGHT if graph.precision.arithmetic == "fp32" else OUT_OF_SIGHT_HALF
        outside = _emit_outside(graph, attention.mask, distance, absolute, name)
        if attention.first is not None:  # no token is too far from the first one
            outside = graph.node("Mul", [outside, others], f"{name}/outside_but_first")
        terms.append(graph.node("Mul", [outside, graph.constant(out)], f"{name}/in_window"))
    return emit_sum(graph, attention, terms, name)


def _emit_outside(graph: GraphBuilder, mask: Mask, distance: str, absolute: str, name: str) -> str:
    """Add 1 for each key outside a mask, else 0, (longest, longest)."""

    def beyond(value: str, limit: int, suffix: str) -> str:
        # Where would need two more squares for its operands in ONNX Runtime.
        further = graph.node("Greater", [value, graph.constant(np.array(limit, np.int32))], f"{name}/beyond{suffix}")
        return graph.node("Cast", [further], f"{name}/outside{suffix}", to=1)

    if isinstance(mask, Window) and is_symmetric(mask):
        return beyond(absolute, mask.before, "")
    after = beyond(distance, mask.after if isinstance(mask, Window) else 0, "_after")
    if not isinstance(mask, Window):
        return after
    behind = graph.node("Sub", [graph.constant(np.array(0, np.int32)), distance], f"{name}/behind")
    before = beyond(behind, mask.before, "_before")
    return graph.node("Add", [after, before], f"{name}/outside")  # no key is outside on both sides


def emit_sum(graph: GraphBuilder, attention: Attention, terms: Sequence[str], name: str) -> str:
    """Add the sum of a bias's terms, (1, heads or 1, longest, longest)."""
    total = terms[0]
    for place, term in enumerate(terms[1:]):
        total = graph.node("Add", [total, term], f"{name}/sum.{place}")
    # ALiBi and the learned bias are (heads, longest, longest), a window alone is (longest, longest).
    axes = [0] if attention.alibi is not None or attention.relative_bias is not None else [0, 1]
    return graph.node("Unsqueeze", [total, graph.constant(axes)], name)


def _by_distance(bias: RelativeBias, num_positions: int) -> Weight:
    """Return the learned bias of each distance from 1 - positions to positions - 1, (heads, 2 · positions - 1)."""
    num_buckets, num_heads = bias.table.shape
    distances = np.arange(1 - num_positions, num_positions, dtype=np.int64)
    index = buckets(distances, num_buckets, bias.max_distance)
    return Weight(
        f"{bias.table.name}.by_distance",
        (num_heads, len(distances)),
        lambda: np.ascontiguousarray(bias.table.load()[index].T),
    )
