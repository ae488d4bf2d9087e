"""Global attention of each text's first token in standard operators (Longformer's classifiers).

The other tokens attend to the first one through an open column of their window's bias. The context of the first token itself
is computed by projections of its own, and takes the place of that of its window.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...architecture import Attention, GlobalFirst
from ...graph.builder import GraphBuilder
from .blocks import emit_linear

__all__ = ["emit_first_context", "emit_with_first"]


def emit_first_context(
    graph: GraphBuilder,
    attention: Attention,
    first: GlobalFirst,
    state: str,
    rows: tuple[str, str],
    scores_mask: str,
    name: str,
    sides: Sequence[int] = (0, 0),
) -> str:
    """Add the context of the first token of each text, (texts, 1, heads · head_size).

    Args:
        graph: graph to add to.
        attention: description of the attention.
        first: its global attention.
        state: hidden states of the first tokens, (texts, 1, hidden).
        rows: keys and values of the global attention in a rectangle, (texts, longest, heads · head_size).
        scores_mask: number added to the scores, (texts, 1, 1, longest).
        name: name of the attention.
        sides: texts and tokens of the rectangle, for Reshape; 0 copies a size.
    """

    def split(value: str, part: str, perm: tuple[int, ...]) -> str:
        tokens = 1 if part == "query" else sides[1]
        sizes = graph.constant([sides[0], tokens, attention.num_heads, attention.head_size])
        value = graph.node("Reshape", [value, sizes], f"{name}/first/{part}/split")
        return graph.node("Transpose", [value], f"{name}/first/{part}/heads", perm=perm)

    query = emit_linear(graph, first.query, state, f"{name}/first/query")
    query = graph.node("Mul", [query, graph.constant(attention.scale)], f"{name}/first/query/scaled")
    query = split(query, "query", (0, 2, 1, 3))
    scores = graph.node("MatMul", [query, split(rows[0], "key", (0, 2, 3, 1))], f"{name}/first/scores")
    scores = graph.node("Add", [scores, scores_mask], f"{name}/first/masked_scores")
    weights = graph.node("Softmax", [scores], f"{name}/first/weights", axis=-1)
    context = graph.node("MatMul", [weights, split(rows[1], "value", (0, 2, 1, 3))], f"{name}/first/context/heads")
    context = graph.node("Transpose", [context], f"{name}/first/context/split", perm=(0, 2, 1, 3))
    shape = graph.constant([sides[0], 1, attention.query_heads.width])
    return graph.node("Reshape", [context, shape], f"{name}/first/context")


def emit_with_first(graph: GraphBuilder, local: str, first: str, others: str, name: str) -> str:
    """Add the contexts of a rectangle with those of the first tokens, (texts, longest, heads · head_size).

    Args:
        graph: graph to add to.
        local: contexts of the window, (texts, longest, heads · head_size).
        first: contexts of the first tokens, (texts, 1, heads · head_size).
        others: 0 for the first position and 1 for the others, (longest,).
        name: name of the attention.
    """
    others = graph.node("Unsqueeze", [others, graph.constant([1])], f"{name}/first/others")
    is_first = graph.node("Sub", [graph.constant(1.0), others], f"{name}/first/is_first")
    local = graph.node("Mul", [local, others], f"{name}/first/kept")
    first = graph.node("Mul", [first, is_first], f"{name}/first/placed")
    return graph.node("Add", [local, first], f"{name}/context")
