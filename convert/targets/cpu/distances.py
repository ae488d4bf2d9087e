"""Places of scores by content and distance on the target `cpu`, which computes shapes in the graph."""

from __future__ import annotations

from onnx import TensorProto

from ...architecture import Architecture
from ...checkpoint.tensors import Weight
from ...graph.builder import GraphBuilder
from ..shared.disentangled import Skew, emit_rows, find_disentangled
from .packed_layout import PackedLayout

__all__ = ["emit_skew"]


def emit_skew(graph: GraphBuilder, architecture: Architecture, layout: PackedLayout) -> Skew | None:
    """Add the numbers of rows in both orders of distances, and the shapes; None for a model without such scores."""
    disentangled = find_disentangled(architecture)
    if disentangled is None:
        return None
    name = f"positions/{disentangled.name}"
    middle = (len(disentangled.rows) - 1) // 2  # place of the distance 0
    rows = emit_rows(graph, disentangled, TensorProto.INT64)
    longest = graph.node("Shape", [layout.steps], f"{name}/longest")
    number = graph.node("Squeeze", [longest, graph.constant([0])], f"{name}/longest_number")
    twice = graph.node("Add", [number, number], f"{name}/twice")
    steps = graph.node("Range", [graph.constant(0), twice, graph.constant(1)], f"{name}/steps")
    distance = graph.node("Sub", [steps, number], f"{name}/distance")  # -longest, …, longest - 1
    # The distance longest is in a column that is cut off; it may have no row.
    behind = graph.node("Add", [distance, graph.constant(middle)], f"{name}/behind_place")
    behind = graph.node("Max", [behind, graph.constant(0)], f"{name}/behind_row")
    ahead = graph.node("Sub", [graph.constant(middle), distance], f"{name}/ahead_place")
    ahead = graph.node("Min", [ahead, graph.constant(2 * middle)], f"{name}/ahead_row")
    orders = {
        order: graph.node("Gather", [rows, places], f"{name}/{order}")
        for order, places in (("ahead", ahead), ("behind", behind))
    }

    def look_up(table: Weight, order: str, part: str) -> str:
        return graph.node("Gather", [graph.weight(table), orders[order]], f"{part}/rows", axis=1)

    copied, rest = graph.constant([0, 0]), graph.constant([-1])
    return Skew(
        ahead=lambda table, part: look_up(table, "ahead", part),
        behind=lambda table, part: look_up(table, "behind", part),
        tall=graph.node("Concat", [copied, rest, longest], f"{name}/tall", axis=0),
        wide=graph.node("Concat", [copied, longest, rest], f"{name}/wide", axis=0),
        longest=longest,
    )
