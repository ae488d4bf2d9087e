"""Gated convolutions of the target `coreml`: CoreML has no Gather, so the rows are shifted, and each shift is weighted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...architecture import ShortConvolution
from ...checkpoint.tensors import Weight, constant
from ...graph.builder import GraphBuilder
from ..shared.blocks import emit_linear

__all__ = ["emit_shifted_convolution"]


def emit_shifted_convolution(
    graph: GraphBuilder, part: ShortConvolution, hidden: str, tokens: tuple[str, int], name: str
) -> str:
    """Add a gated convolution of one text up to its output product, (1, length, hidden).

    Args:
        graph: graph to add to.
        part: the convolution.
        hidden: hidden states, (1, length, hidden).
        tokens: 1 for a token that counts, else 0, (1, length, 1); and the length.
        name: prefix of the nodes' names.
    """
    seen, length = tokens
    size, width = part.kernel.shape
    # Without this, rows of padding would reach the tokens before them.
    hidden = graph.node("Mul", [hidden, seen], f"{name}/seen")
    packed = emit_linear(graph, part.input, hidden, f"{name}/input")
    parts = [f"{name}/{which}" for which in ("before", "after", "value")]
    before, after, value = graph.nodes("Split", [packed, graph.constant([width] * 3)], f"{name}/split", parts, axis=-1)
    gated = graph.node("Mul", [before, value], f"{name}/gated_rows")
    gated = graph.node("Mul", [gated, seen], f"{name}/gated")  # a bias of the input's product fills padding again
    total = ""
    for index in range(size):
        shifted = _emit_shifted(graph, gated, index - part.reach[0], length, width, f"{name}/shifted.{index}")
        weighted = graph.node("Mul", [shifted, graph.weight(_row(part.kernel, index))], f"{name}/weighted.{index}")
        total = graph.node("Add", [total, weighted], f"{name}/total.{index}") if total else weighted
    if part.bias is not None:
        total = graph.node("Add", [total, graph.weight(part.bias)], f"{name}/with_bias")
    return graph.node("Mul", [after, total], f"{name}/result")


def _row(kernel: Weight, index: int) -> Weight:
    """Return the factors of one place of a kernel, (hidden,)."""

    def load() -> NDArray[np.float32]:
        return np.ascontiguousarray(kernel.load()[index])

    return Weight(f"{kernel.name}.{index}", kernel.shape[1:], load)


def _emit_shifted(graph: GraphBuilder, rows: str, step: int, length: int, width: int, name: str) -> str:
    """Add the rows of the tokens `step` places later, zeros beyond the ends, (1, length, hidden)."""
    if step == 0 or abs(step) >= length:
        return rows if step == 0 else graph.node("Mul", [rows, graph.constant(0.0)], name)
    zeros = graph.weight(constant(f"zeros.{abs(step)}.{width}", np.zeros((1, abs(step), width), np.float32)))
    axis = graph.constant([1])
    bounds = (0, length - abs(step)) if step < 0 else (step, length)
    kept = graph.node("Slice", [rows, *(graph.constant([bound]) for bound in bounds), axis], f"{name}/kept")
    return graph.node("Concat", [zeros, kept] if step < 0 else [kept, zeros], name, axis=1)
