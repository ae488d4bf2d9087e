"""Index of the tokens around each token on the target `cpu`, computed in the graph."""

from __future__ import annotations

import numpy as np

from ...architecture import Architecture
from ...graph.builder import GraphBuilder
from ..shared.convolutions import Around, kernel_size
from .packed_layout import PackedLayout

__all__ = ["emit_around"]


def emit_around(graph: GraphBuilder, architecture: Architecture, layout: PackedLayout) -> Around | None:
    """Add the index, int64, (tokens, size); None for a model without convolutions."""
    size = kernel_size(architecture)
    if size is None:
        return None
    name, zero, one = "layout/around", graph.constant(0), graph.constant(1)
    longest = graph.node("Shape", [layout.steps], f"{name}/longest")
    text = graph.node("Div", [layout.packed, longest], f"{name}/text")
    last = graph.constant([1])
    steps = graph.constant(np.arange(size, dtype=np.int64) - size // 2)
    position = graph.node("Unsqueeze", [layout.positions, last], f"{name}/position")
    place = graph.node("Add", [position, steps], f"{name}/place")  # (tokens, size)
    start = graph.node("Gather", [layout.starts, text], f"{name}/start")
    start = graph.node(
        "Unsqueeze", [graph.node("Add", [start, one], f"{name}/start_of_rows"), last], f"{name}/first_row"
    )
    row = graph.node("Add", [start, place], f"{name}/row")
    length = graph.node("Gather", [layout.lengths, text], f"{name}/length")
    length = graph.node("Unsqueeze", [length, last], f"{name}/length_column")
    is_before_end = graph.node("Less", [place, length], f"{name}/is_before_end")
    row = graph.node("Where", [is_before_end, row, zero], f"{name}/row_before_end")
    is_before_start = graph.node("Less", [place, zero], f"{name}/is_before_start")
    return Around(graph.node("Where", [is_before_start, zero, row], name), (0,))
