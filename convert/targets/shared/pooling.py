"""Pooling by weights that the host computed."""

from __future__ import annotations

from ...graph.builder import GraphBuilder

__all__ = ["emit_weighted_sum"]


def emit_weighted_sum(graph: GraphBuilder, weights: str, rectangle: str, name: str) -> str:
    """Add the weighted sum over each text's tokens, (texts, hidden).

    Args:
        graph: graph to add to.
        weights: (texts, longest), 0 for padding.
        rectangle: token vectors, (texts, longest, hidden); finite in padding, too.
        name: name of the last node.
    """
    row = graph.node("Unsqueeze", [weights, graph.constant([1])], f"{name}/weights_row")
    summed = graph.node("MatMul", [row, rectangle], f"{name}/sum")  # (texts, 1, hidden)
    return graph.node("Squeeze", [summed, graph.constant([1])], name)
