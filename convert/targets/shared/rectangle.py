"""Attention, rotation and pooling over a padded rectangle, with standard operators alone (targets `tensorrt` and `coreml`).

The scores are MatMul(scaled query, keyᵀ) + mask, then Softmax and MatMul: the pattern that TensorRT fuses into one kernel
according to NVIDIA's documentation. The mask is finite, so that a row of padding has equal weights, not NaN. Gemm does not
take a rectangle, so a decoder is a product and a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime.artifact.manifest import TensorInfo

from ...architecture import Attention, Decoder, Heads, Rotary
from ...graph.builder import GraphBuilder
from .blocks import emit_linear
from .convolutions import emit_span_convolution
from .disentangled import emit_by_distance
from .global_first import emit_first_context, emit_with_first
from .pooling import PooledRows, emit_weighted_sum, take_context
from .positions import OUT_OF_SIGHT_HALF, Positions
from .projections import emit_projections, emit_repeated_heads

__all__ = [
    "Rectangle",
    "emit_mask",
    "emit_rectangle_attention",
    "emit_rectangle_decoder",
    "emit_rectangle_pooling",
]


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Shape and mask of a rectangle of texts.

    Attributes:
        shape: texts and tokens as the inputs declare them: numbers, or names of free sizes.
        tokens: 1 for a token, 0 for padding, (texts, longest).
        mask: 0 for a token, -10,000 for padding, (texts, longest).
        scores_mask: the same for scores, (texts, 1, 1, longest).
    """

    shape: tuple[int | str, int | str]
    tokens: str
    mask: str
    scores_mask: str

    def sizes(self, *widths: int) -> list[int]:
        """Return a shape for Reshape: the rectangle's sides, then the widths; 0 copies a free side."""
        return [*(side if isinstance(side, int) else 0 for side in self.shape), *widths]

    def emit_seen_tokens(self, graph: GraphBuilder) -> str:
        """Add 1 for a token that other tokens attend to, 0 for others and for padding, (texts, longest, 1)."""
        return graph.node("Unsqueeze", [self.tokens, graph.constant([2])], "mask/seen_tokens")


def emit_mask(graph: GraphBuilder, shape: tuple[int | str, int | str]) -> Rectangle:
    """Declare the input `attention_mask`, int32, and add both masks."""
    tokens = graph.input(TensorInfo("attention_mask", "int32", shape))
    ones = graph.node("Cast", [tokens], "mask/tokens", to=1)
    padding = graph.node("Sub", [ones, graph.constant(1.0)], "mask/padding")  # 0 or -1
    mask = graph.node("Mul", [padding, graph.constant(-OUT_OF_SIGHT_HALF)], "mask/tokens_or_out")
    return Rectangle(shape, ones, mask, graph.node("Unsqueeze", [mask, graph.constant([1, 2])], "mask/scores"))


def emit_rectangle_attention(
    graph: GraphBuilder,
    attention: Attention,
    hidden: str,
    rectangle: Rectangle,
    positions: Positions,
    name: str,
    rows: PooledRows | None,
) -> str:
    """Add attention from (texts, longest, hidden) to its context, (texts, longest, heads · head_size), or its pooled rows."""

    def rotate(graph: GraphBuilder, heads: Heads, rotary: Rotary, rows: str, positions: Positions, name: str) -> str:
        return _emit_rotation(graph, heads, rotary, rows, rectangle, positions, name)

    sides = rectangle.sizes()
    query, key, value = emit_projections(graph, attention, hidden, positions, name, rotate, sides)
    key = emit_repeated_heads(graph, attention, key, sides, f"{name}/key")
    value = emit_repeated_heads(graph, attention, value, sides, f"{name}/value")

    def split(rows: str, heads: Heads, part: str, perm: tuple[int, ...]) -> str:
        sizes = graph.constant(rectangle.sizes(heads.count, heads.size))
        rows = graph.node("Reshape", [rows, sizes], f"{name}/{part}/split")
        return graph.node("Transpose", [rows], f"{name}/{part}/heads", perm=perm)

    scaled = graph.node("Mul", [query, graph.constant(attention.scale)], f"{name}/query/scaled")
    heads = {
        "query": split(scaled, attention.query_heads, "query", (0, 2, 1, 3)),  # (texts, heads, longest, size)
        "key": split(key, attention.query_heads, "key", (0, 2, 3, 1)),  # (texts, heads, size, longest)
        "value": split(value, attention.query_heads, "value", (0, 2, 1, 3)),
    }
    scores = graph.node("MatMul", [heads["query"], heads["key"]], f"{name}/scores")  # (texts, heads, longest, longest)
    if bias := positions.bias_of(attention):
        scores = graph.node("Add", [scores, bias], f"{name}/biased_scores")
    if positions.by_distance is not None:
        pair = (
            split(query, attention.query_heads, "query_rows", (0, 2, 1, 3)),
            split(key, attention.query_heads, "key_rows", (0, 2, 1, 3)),
        )
        bias = emit_by_distance(graph, attention, pair, positions.by_distance, name)
        scores = graph.node("Add", [scores, bias], f"{name}/scores_by_position")
    scores = graph.node("Add", [scores, rectangle.scores_mask], f"{name}/masked_scores")
    weights = graph.node("Softmax", [scores], f"{name}/weights", axis=-1)
    context = graph.node("MatMul", [weights, heads["value"]], f"{name}/context/heads")
    context = graph.node("Transpose", [context], f"{name}/context/split", perm=(0, 2, 1, 3))
    width = attention.query_heads.width
    around = None if attention.convolution is None else positions.around
    last = "context" if around is None and attention.first is None else "self_context"
    last = f"{name}/{last}"
    context = graph.node("Reshape", [context, graph.constant(rectangle.sizes(width))], last)
    if around is not None:
        convolved = emit_span_convolution(graph, attention, hidden, query, around, name)
        context = graph.node("Concat", [context, convolved], f"{name}/context", axis=-1)
    if attention.first is not None:
        zero, one = graph.constant([0]), graph.constant([1])
        state = graph.node("Slice", [hidden, zero, one, one], f"{name}/first/hidden")  # (texts, 1, hidden)
        parts = (("key", attention.first.key), ("value", attention.first.value))
        seen = [emit_linear(graph, linear, hidden, f"{name}/first/{part}") for part, linear in parts]
        pair, mask = (seen[0], seen[1]), rectangle.scores_mask
        first = emit_first_context(graph, attention, attention.first, state, pair, mask, name, rectangle.sizes())
        context = emit_with_first(graph, context, first, positions.others, name)
    return take_context(rows, attention, context, name)


def _emit_rotation(
    graph: GraphBuilder,
    heads: Heads,
    rotary: Rotary,
    rows: str,
    rectangle: Rectangle,
    positions: Positions,
    name: str,
) -> str:
    """Turn pairs (a, b) of each head into (a cos - b sin, b cos + a sin)."""
    cosines, sines = positions.tables[rotary.name]  # (texts, longest, 1, pairs)
    pairs = len(rotary.frequencies)
    turned = graph.node(
        "Reshape", [rows, graph.constant(rectangle.sizes(heads.count, heads.size))], f"{name}/rotary/heads"
    )
    rest = []
    if 2 * pairs < heads.size:
        sizes = graph.constant([2 * pairs, heads.size - 2 * pairs])
        turned, unturned = graph.nodes(
            "Split", [turned, sizes], f"{name}/rotary/part", [f"{name}/rotary/turned", f"{name}/rotary/kept"], axis=-1
        )
        rest = [unturned]
    first, second = _emit_pairs(graph, rotary, heads.count, turned, rectangle, f"{name}/rotary")
    products = {
        f"{part}_{what}": graph.node("Mul", [value, table], f"{name}/rotary/{part}_{what}")
        for part, value in (("first", first), ("second", second))
        for what, table in (("cos", cosines), ("sin", sines))
    }
    ahead = graph.node("Sub", [products["first_cos"], products["second_sin"]], f"{name}/rotary/ahead")
    behind = graph.node("Add", [products["second_cos"], products["first_sin"]], f"{name}/rotary/behind")
    if rotary.interleaved:
        last = graph.constant([4])
        both = [graph.node("Unsqueeze", [part, last], f"{part}_pair") for part in (ahead, behind)]
        joined = graph.node("Concat", both, f"{name}/rotary/pairs_turned", axis=4)
        sizes = graph.constant(rectangle.sizes(heads.count, 2 * pairs))
        parts = [graph.node("Reshape", [joined, sizes], f"{name}/rotary/interleaved"), *rest]
    else:
        parts = [ahead, behind, *rest]
    whole = parts[0] if len(parts) == 1 else graph.node("Concat", parts, f"{name}/rotary/whole", axis=3)
    return graph.node("Reshape", [whole, graph.constant(rectangle.sizes(heads.width))], f"{name}/rotated")


def _emit_pairs(
    graph: GraphBuilder, rotary: Rotary, num_heads: int, turned: str, rectangle: Rectangle, name: str
) -> tuple[str, str]:
    """Add the first and second elements of the pairs, each (texts, longest, heads, pairs)."""
    pairs = len(rotary.frequencies)
    if not rotary.interleaved:
        halves = graph.constant([pairs, pairs])
        first, second = graph.nodes(
            "Split", [turned, halves], f"{name}/halves", [f"{name}/first", f"{name}/second"], axis=-1
        )
        return first, second
    sizes = graph.constant(rectangle.sizes(num_heads, pairs, 2))
    paired = graph.node("Reshape", [turned, sizes], f"{name}/pairs")
    first, second = graph.nodes(
        "Split",
        [paired, graph.constant([1, 1])],
        f"{name}/halves",
        [f"{name}/first_pair", f"{name}/second_pair"],
        axis=-1,
    )
    last = graph.constant([4])
    return (
        graph.node("Squeeze", [first, last], f"{name}/first"),
        graph.node("Squeeze", [second, last], f"{name}/second"),
    )


def emit_rectangle_pooling(graph: GraphBuilder, mode: PoolingMode, hidden: str, rectangle: Rectangle, name: str) -> str:
    """Add one vector per text: a sum with the host's weights, or the maximum over tokens."""
    if mode == "max":
        mask = graph.node("Unsqueeze", [rectangle.mask, graph.constant([2])], f"{name}/mask")
        masked = graph.node("Add", [hidden, mask], f"{name}/masked")
        return graph.node("ReduceMax", [masked, graph.constant([1])], name, keepdims=0)
    weights = graph.input(TensorInfo(f"pooling.{mode}", "float32", rectangle.shape))
    return emit_weighted_sum(graph, weights, hidden, name)


def emit_rectangle_decoder(graph: GraphBuilder, decoder: Decoder, value: str, name: str) -> str:
    """Add x · tableᵀ + bias of token vectors in a rectangle, (texts, longest, vocabulary)."""
    table = graph.node("Transpose", [graph.weight(decoder.table)], f"{name}/table", perm=(1, 0))
    if decoder.bias is None:
        return graph.node("MatMul", [value, table], name)
    product = graph.node("MatMul", [value, table], f"{name}/product")
    return graph.node("Add", [product, graph.weight(decoder.bias)], name)
