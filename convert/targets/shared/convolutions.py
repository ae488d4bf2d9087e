"""Convolutions over the tokens of each text, by an index of the tokens around each token.

The index works on packed rows and on rectangles alike, and no row of padding is ever in it: a text's values do not depend on
its neighbors in a batch. Index 0 is a row of zeros, for places beyond the ends of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fletcher.runtime.artifact.manifest import TensorInfo

from ...architecture import Architecture, Attention, ShortConvolution
from ...checkpoint.tensors import constant
from ...graph.builder import GraphBuilder
from .blocks import emit_linear

__all__ = [
    "Around",
    "Convolve",
    "convolve_by_index",
    "emit_span_convolution",
    "input_around",
    "kernel_size",
    "masks_tail",
]

#: Adds a gated convolution up to its output product: its description, the hidden states, and the prefix of the nodes' names.
Convolve = Callable[[ShortConvolution, str, str], str]


@dataclass(frozen=True, slots=True)
class Around:
    """Index of the tokens around each token.

    Attributes:
        index: 1 + the row of each token around, 0 for none; int, (…, size).
        sides: sizes of the rows' axes before the last one, for Reshape; 0 copies a size.
    """

    index: str
    sides: Sequence[int]


def kernel_size(architecture: Architecture) -> int | None:
    """Return the number of tokens of the kernels of an architecture, or None if it has none.

    The token itself is in the middle: a kernel that reaches further to one side counts as if it did to both.
    """
    sizes = {part.convolution.size for part in architecture.attentions if part.convolution is not None}
    sizes |= {2 * max(part.reach) + 1 for part in architecture.short_convolutions}
    if len(sizes) > 1:
        raise ValueError(f"the family {architecture.family} has kernels of several sizes: {sorted(sizes)}")
    return next(iter(sizes), None)


def input_around(
    graph: GraphBuilder, architecture: Architecture, shape: tuple[str, ...], sides: Sequence[int]
) -> Around | None:
    """Declare the index as an input that the host makes; None for a model without convolutions.

    Args:
        graph: graph to add to.
        architecture: architecture with the layers.
        shape: shape of the token ids.
        sides: see `Around`.
    """
    size = kernel_size(architecture)
    if size is None:
        return None
    return Around(graph.input(TensorInfo(f"around.{size}", "int32", (*shape, size))), sides)


def convolve_by_index(
    graph: GraphBuilder, architecture: Architecture, around: Around | None, seen: str = ""
) -> Convolve | None:
    """Return the function that adds gated convolutions; None for an architecture without them.

    Args:
        graph: graph to add to.
        architecture: architecture with the layers, whose convolutions have the same reach.
        around: index of the tokens around each token, as many before as after it.
        seen: 1 for a token that counts, else 0, (…, 1); an empty name if all count.
    """
    reaches = {part.reach for part in architecture.short_convolutions}
    if not reaches or around is None:
        return None
    ((before, after),) = reaches
    covered, furthest = around, max(before, after)
    if before != after:
        columns = (graph.constant([furthest - before]), graph.constant([furthest + after + 1]), graph.constant([-1]))
        covered = Around(graph.node("Slice", [around.index, *columns], "layout/around/covered"), around.sides)

    def convolve(part: ShortConvolution, hidden: str, name: str) -> str:
        return _emit_short_convolution(graph, part, hidden, covered, "" if part.sees_tail else seen, name)

    return convolve


def masks_tail(architecture: Architecture) -> bool:
    """Return whether tokens to which no token attends count as zeros in a model's gated convolutions."""
    return architecture.unseen_tail is not None and any(not part.sees_tail for part in architecture.short_convolutions)


def _emit_short_convolution(
    graph: GraphBuilder, part: ShortConvolution, hidden: str, around: Around, seen: str, name: str
) -> str:
    """Add a gated convolution up to its output product, (…, hidden).

    Args:
        graph: graph to add to.
        part: the convolution.
        hidden: hidden states, (…, hidden).
        around: index of the tokens that the kernel covers.
        seen: 1 for a token that counts, else 0, (…, 1); an empty name if all count.
        name: prefix of the nodes' names.
    """
    width = part.kernel.shape[1]
    if seen:
        hidden = graph.node("Mul", [hidden, seen], f"{name}/seen")
    packed = emit_linear(graph, part.input, hidden, f"{name}/input")
    parts = [f"{name}/{which}" for which in ("before", "after", "value")]
    before, after, value = graph.nodes("Split", [packed, graph.constant([width] * 3)], f"{name}/split", parts, axis=-1)
    gated = graph.node("Mul", [before, value], f"{name}/gated")
    rows = _emit_rows(graph, gated, width, around, f"{name}/around")  # (…, size, hidden)
    rows = graph.node("Mul", [rows, graph.weight(part.kernel)], f"{name}/weighted")
    mixed = graph.node("ReduceSum", [rows, graph.constant([-2])], f"{name}/mixed", keepdims=0)
    if part.bias is not None:
        mixed = graph.node("Add", [mixed, graph.weight(part.bias)], f"{name}/with_bias")
    return graph.node("Mul", [after, mixed], f"{name}/result")


def emit_span_convolution(
    graph: GraphBuilder, attention: Attention, hidden: str, query: str, around: Around, name: str
) -> str:
    """Add the heads of convolutions, (…, heads · head_size).

    Args:
        graph: graph to add to.
        attention: an attention with convolutions.
        hidden: hidden states, (…, hidden).
        query: projected query, (…, heads · head_size).
        around: index of the tokens around.
        name: name of the attention.
    """
    part, name = attention.convolution, f"{name}/convolution"
    assert part is not None
    heads, width = attention.query_heads, part.depthwise.shape[1]
    rows = _emit_rows(graph, hidden, width, around, f"{name}/inputs")  # (…, size, hidden)
    rows = graph.node("Mul", [rows, graph.weight(part.depthwise)], f"{name}/depthwise")
    depth = graph.node("ReduceSum", [rows, graph.constant([-2])], f"{name}/depth", keepdims=0)
    span = emit_linear(graph, part.pointwise, depth, f"{name}/span")
    span = graph.node("Mul", [span, query], f"{name}/span_of_query")
    kernels = emit_linear(graph, part.kernels, span, f"{name}/kernels")
    sides = around.sides
    kernels = graph.node("Reshape", [kernels, graph.constant([*sides, heads.count, 1, part.size])], f"{name}/split")
    kernels = graph.node("Softmax", [kernels], f"{name}/weights", axis=-1)  # (…, heads, 1, size)
    values = emit_linear(graph, part.values, hidden, f"{name}/values")
    values = _emit_rows(graph, values, heads.width, around, f"{name}/values_around")
    shape = graph.constant([*sides, part.size, heads.count, heads.size])
    values = graph.node("Reshape", [values, shape], f"{name}/values_split")
    last = len(sides)  # the axis of the tokens around
    perm = (*range(last), last + 1, last, last + 2)
    values = graph.node("Transpose", [values], f"{name}/values_of_heads", perm=perm)  # (…, heads, size, head_size)
    mixed = graph.node("MatMul", [kernels, values], f"{name}/mixed")
    return graph.node("Reshape", [mixed, graph.constant([*sides, heads.width])], f"{name}/result")


def _emit_rows(graph: GraphBuilder, rows: str, width: int, around: Around, name: str) -> str:
    """Add the rows around each row, (…, size, width)."""
    if len(around.sides) > 1:
        rows = graph.node("Reshape", [rows, graph.constant([-1, width])], f"{name}/flat")
    zeros = graph.weight(constant(f"zeros.{width}", np.zeros((1, width), np.float32)))
    padded = graph.node("Concat", [zeros, rows], f"{name}/with_zeros", axis=0)
    return graph.node("Gather", [padded, around.index], f"{name}/rows")
